package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// repository is the directory of gantry's module: programs are built from it,
// and relative paths start there.
func repository(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return "", fmt.Errorf("find gantry's sources: %w; run this in its directory", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// build makes a static program of a package.
func build(ctx context.Context, out, pkg string, cgo bool) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, "-ldflags", "-s -w", pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if cgo {
		cmd = exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, "-tags", "seccomp netgo osusergo",
			"-ldflags", `-s -w -extldflags "-static"`, pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w: %s", pkg, err, tail(string(text)))
	}
	return nil
}

// makeImage writes a root filesystem: that of an archive, and the payload.
func makeImage(out, base, payload string) (err error) {
	from, err := os.Open(base)
	if err != nil {
		return fmt.Errorf("%w; run `scripts/images build/images busybox` first", err)
	}
	defer from.Close()
	to, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	r, w := tar.NewReader(from), tar.NewWriter(to)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s: %w", base, err)
		}
		if err := w.WriteHeader(h); err != nil {
			return err
		}
		if _, err := io.Copy(w, r); err != nil {
			return err
		}
	}
	program, err := os.ReadFile(payload)
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Name: "./payload", Mode: 0o755, Size: int64(len(program)), Typeflag: tar.TypeReg}); err != nil {
		return err
	}
	if _, err := w.Write(program); err != nil {
		return err
	}
	return w.Close()
}

// prepare builds the payload and the image.
func (b *bench) prepare(ctx context.Context, images string) error {
	b.payload, b.archive = filepath.Join(b.scratch, "payload"), filepath.Join(b.scratch, "image.tar")
	if err := build(ctx, b.payload, "./tests/bench/payload", false); err != nil {
		return err
	}
	return makeImage(b.archive, filepath.Join(images, "busybox.tar"), b.payload)
}
