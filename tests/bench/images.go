package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"
)

// A large image: as many files, and as large, as in a distribution with a
// language on it.
const (
	largeName  = "gantry-bench-large:latest"
	largeBytes = 170_000_000
)

// large is the image as docker save writes it, and its one layer.
type large struct{ archive, layer string }

// openLarge makes the image. What its files hold is half words, half noise, so
// that it packs as programs do.
func openLarge(dir string) (*large, error) {
	l := &large{archive: filepath.Join(dir, "large.tar"), layer: filepath.Join(dir, "layer.tar")}
	f, err := os.Create(l.layer)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	err = errors.Join(writeLayer(io.MultiWriter(f, sum)), f.Close())
	if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("sha256:%x", sum.Sum(nil))
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{id}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{largeName}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return nil, err
	}
	return l, l.pack(config, manifest)
}

func (l *large) pack(config, manifest []byte) (err error) {
	out, err := os.Create(l.archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	layer, err := os.Open(l.layer)
	if err != nil {
		return err
	}
	defer layer.Close()
	st, err := layer.Stat()
	if err != nil {
		return err
	}
	w := tar.NewWriter(out)
	for _, e := range []struct {
		name string
		size int64
		from io.Reader
	}{
		{"config.json", int64(len(config)), bytes.NewReader(config)},
		{"layer.tar", st.Size(), layer},
		{"manifest.json", int64(len(manifest)), bytes.NewReader(manifest)},
	} {
		if err := w.WriteHeader(&tar.Header{Name: e.name, Mode: 0o644, Size: e.size}); err != nil {
			return err
		}
		if _, err := io.Copy(w, e.from); err != nil {
			return err
		}
	}
	return w.Close()
}

func writeLayer(to io.Writer) error {
	w := tar.NewWriter(to)
	r := rand.New(rand.NewPCG(1, 2)) // the same for every run
	words := bytes.Repeat([]byte("the quick brown fox jumps over the lazy dog\n"), 1<<15)
	noise := make([]byte, 1<<20)
	for i := range noise {
		noise[i] = byte(r.Uint32())
	}
	for i, left := 0, largeBytes; left > 0; i++ {
		if i%40 == 0 {
			if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/", i/40), Mode: 0o755, Typeflag: tar.TypeDir}); err != nil {
				return err
			}
		}
		// Most files are small, most bytes are in large ones.
		size := min(1<<(8+r.IntN(10))+r.IntN(256), left)
		left -= size
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("d%d/f%d", i/40, i), Mode: 0o644, Size: int64(size)}); err != nil {
			return err
		}
		text := words
		if i%2 == 0 {
			text = noise
		}
		for size > 0 {
			n := min(size, len(text)-r.IntN(len(text)/2))
			if _, err := w.Write(text[:n]); err != nil {
				return err
			}
			size -= n
		}
	}
	return w.Close()
}

// untar is what there is no way around: tar unpacks the layer, nothing is
// checked and nothing is waited for. What it has unpacked below dir stays: a file
// system that looks for inodes goes round those that were freed just now.
func (b *bench) untar(ctx context.Context, dir string) (time.Duration, error) {
	dir, err := os.MkdirTemp(dir, "untar-")
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if out, err := exec.CommandContext(ctx, "tar", "-xf", b.large.layer, "-C", dir).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("tar: %w: %s", err, tail(string(out)))
	}
	return time.Since(began), nil
}

// forget removes the large image, and waits until what it has left is gone.
func (p *platform) forget(ctx context.Context, names ...string) error {
	for _, name := range names {
		if _, err := p.imageCommand(ctx, "rm", "-f", name); err != nil {
			return err
		}
	}
	time.Sleep(time.Second)
	return nil
}

// playLoad loads the large image, between two rounds of tar.
func playLoad(ctx context.Context, b *bench, p *platform, add recorder) (err error) {
	dir, err := os.MkdirTemp(b.scratch, "tar-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	before, err := b.untar(ctx, dir)
	if err != nil {
		return err
	}
	took, err := p.imageCommand(ctx, "load", "-i", b.large.archive)
	if err != nil {
		return err
	}
	after, err := b.untar(ctx, dir)
	if err != nil {
		return err
	}
	if err := p.forget(ctx, largeName); err != nil {
		return err
	}
	add.took(loadLarge, took)
	b.results.add(loadLarge, bareColumn, float64((before+after)/2)/float64(time.Millisecond))
	return nil
}

// playPull pulls the large image from Debian's registry on the loopback, and
// then pulls it again.
func playPull(ctx context.Context, b *bench, p *platform, add recorder) (err error) {
	r, err := p.openRegistry(ctx, b.scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	name := r.addr + "/" + largeName
	if _, err := p.imageCommand(ctx, "load", "-i", b.large.archive); err != nil {
		return err
	}
	for _, args := range [][]string{{"tag", largeName, name}, {"push", name}} {
		if _, err := p.imageCommand(ctx, args...); err != nil {
			return err
		}
	}
	if err := p.forget(ctx, name, largeName); err != nil {
		return err
	}
	took, err := p.imageCommand(ctx, "pull", name)
	if err != nil {
		return err
	}
	add.took(pullLarge, took)
	for range 3 {
		if took, err = p.imageCommand(ctx, "pull", name); err != nil {
			return err
		}
		add.took(pullAgain, took)
	}
	return p.forget(ctx, name)
}

const registryProgram = "/usr/bin/docker-registry"

// hostRegistry is Debian's registry where the platform's ports are.
type hostRegistry struct {
	addr string
	dir  string
	cmd  *exec.Cmd
}

func (p *platform) openRegistry(ctx context.Context, scratch string) (*hostRegistry, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(scratch, "registry-")
	if err != nil {
		return nil, err
	}
	r := &hostRegistry{addr: fmt.Sprintf("127.0.0.1:%d", port), dir: dir}
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\nstorage: {filesystem: {rootdirectory: %s/data}}\nhttp: {addr: %q}\n", dir, r.addr)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	args := append(p.enter[:len(p.enter):len(p.enter)], registryProgram, "serve", config)
	r.cmd = exec.Command(args[0], args[1:]...)
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	args = append(p.enter[:len(p.enter):len(p.enter)], "bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/127.0.0.1/%d", port))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		err := exec.CommandContext(ctx, args[0], args[1:]...).Run()
		if err == nil {
			return r, nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("docker-registry does not listen: %w", err), r.close())
		}
	}
}

func (r *hostRegistry) close() error {
	_ = r.cmd.Process.Kill()
	_ = r.cmd.Wait()
	return os.RemoveAll(r.dir)
}
