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
	"slices"
	"strings"
	"syscall"
	"time"
)

// A large image: as many files, and as large, as in a distribution with a
// language on it.
const largeBytes = 170_000_000

// largeRounds is how often one is made, at most: none is removed before the
// benchmark ends. A file system that looks for inodes goes round those that were
// freed just now, and who comes after a removal would pay for it.
const largeRounds = 5

// large is an image that nobody has seen before, as docker save writes it, and its
// one layer.
type large struct {
	name           string
	archive, layer string
	config         []byte
	id, diff       string // digests of the configuration and the layer
}

// makeLarge makes an image. What its files hold is half words, half noise, so that
// it packs as programs do.
func (b *bench) makeLarge() (*large, error) {
	b.larges++
	dir, err := os.MkdirTemp(b.scratch, "large-")
	if err != nil {
		return nil, err
	}
	l := &large{
		name:    fmt.Sprintf("gantry-bench-large%d:latest", b.larges),
		archive: filepath.Join(dir, "large.tar"), layer: filepath.Join(dir, "layer.tar"),
	}
	f, err := os.Create(l.layer)
	if err != nil {
		return nil, err
	}
	sum := sha256.New()
	err = errors.Join(writeLayer(io.MultiWriter(f, sum), b.larges), f.Close())
	if err != nil {
		return nil, err
	}
	l.diff = fmt.Sprintf("%x", sum.Sum(nil))
	l.config, err = json.Marshal(map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "config": map[string]any{},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + l.diff}},
	})
	if err != nil {
		return nil, err
	}
	l.id = fmt.Sprintf("%x", sha256.Sum256(l.config))
	return l, l.pack()
}

func (l *large) pack() (err error) {
	manifest, err := json.Marshal([]map[string]any{{"Config": "config.json", "RepoTags": []string{l.name}, "Layers": []string{"layer.tar"}}})
	if err != nil {
		return err
	}
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
		{"config.json", int64(len(l.config)), bytes.NewReader(l.config)},
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

func writeLayer(to io.Writer, seed int) error {
	w := tar.NewWriter(to)
	r := rand.New(rand.NewPCG(1, uint64(seed))) // the same for every run
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
// checked and nothing is waited for.
func (l *large) untar(ctx context.Context) (time.Duration, error) {
	dir, err := os.MkdirTemp(filepath.Dir(l.layer), "untar-")
	if err != nil {
		return 0, err
	}
	syscall.Sync()
	began := time.Now()
	if out, err := exec.CommandContext(ctx, "tar", "-xf", l.layer, "-C", dir).CombinedOutput(); err != nil {
		return 0, fmt.Errorf("tar: %w: %s", err, tail(string(out)))
	}
	return time.Since(began), nil
}

// playLoad loads a large image, before tar unpacks its layer or after it. Each
// begins when the disk has what there was before.
func playLoad(ctx context.Context, b *bench, p *platform, add recorder) error {
	l, err := b.makeLarge()
	if err != nil {
		return err
	}
	load := func() error {
		syscall.Sync()
		took, err := p.imageCommand(ctx, "load", "-i", l.archive)
		if err == nil {
			add.took(loadLarge, took)
		}
		return err
	}
	untar := func() error {
		took, err := l.untar(ctx)
		if err == nil {
			b.results.add(loadLarge, bareColumn, float64(took)/float64(time.Millisecond))
		}
		return err
	}
	turn := []func() error{load, untar}
	if b.larges%2 == 0 {
		slices.Reverse(turn)
	}
	for _, f := range turn {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// playPull pulls a large image from Debian's registry on the loopback, and then
// pulls it again.
func playPull(ctx context.Context, b *bench, p *platform, add recorder) (err error) {
	l, err := b.makeLarge()
	if err != nil {
		return err
	}
	r, err := p.openRegistry(ctx, l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	name := r.addr + "/" + l.name
	syscall.Sync()
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
	return nil
}

const registryProgram = "/usr/bin/docker-registry"

// hostRegistry is Debian's registry where the platform's ports are.
type hostRegistry struct {
	addr string
	cmd  *exec.Cmd
}

// store lays the image where the registry looks for it below dir.
func (l *large) store(dir string) error {
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": map[string]any{"mediaType": "application/vnd.oci.image.config.v1+json", "digest": "sha256:" + l.id, "size": len(l.config)},
		"layers": []any{map[string]any{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": "sha256:" + l.diff, "size": size(l.layer)}},
	})
	if err != nil {
		return err
	}
	named := fmt.Sprintf("%x", sha256.Sum256(manifest))
	repository, _, _ := strings.Cut(l.name, ":")
	v2 := filepath.Join(dir, "docker", "registry", "v2")
	blob := func(hex string) string { return filepath.Join(v2, "blobs", "sha256", hex[:2], hex, "data") }
	here := filepath.Join(v2, "repositories", repository)
	files := map[string][]byte{blob(named): manifest, blob(l.id): l.config}
	for path, hex := range map[string]string{
		"_layers/sha256/" + l.diff: l.diff, "_layers/sha256/" + l.id: l.id,
		"_manifests/revisions/sha256/" + named: named, "_manifests/tags/latest/current": named, "_manifests/tags/latest/index/sha256/" + named: named,
	} {
		files[filepath.Join(here, path, "link")] = []byte("sha256:" + hex)
	}
	for path, content := range files {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, content, 0o644)); err != nil {
			return err
		}
	}
	return errors.Join(os.MkdirAll(filepath.Dir(blob(l.diff)), 0o755), os.Link(l.layer, blob(l.diff)))
}

// size is that of a file that is there.
func size(path string) int64 {
	st, err := os.Stat(path)
	if err != nil {
		return -1
	}
	return st.Size()
}

// openRegistry starts a registry that has one image.
func (p *platform) openRegistry(ctx context.Context, l *large) (*hostRegistry, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(l.layer)
	if err := l.store(filepath.Join(dir, "data")); err != nil {
		return nil, err
	}
	r := &hostRegistry{addr: fmt.Sprintf("127.0.0.1:%d", port)}
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
	return nil
}
