package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const buildahProgram = "/usr/bin/buildah"

// openBuildah makes Debian's buildah the builder of a directory of its own. It
// has no daemon: everything it does is in the time of its command.
func openBuildah(ctx context.Context, scratch, archive string) (*platform, error) {
	root := filepath.Join(scratch, "buildah")
	p := &platform{
		name: buildahColumn,
		image: []string{
			buildahProgram, "--root", filepath.Join(root, "root"), "--runroot", filepath.Join(root, "run"), "--storage-driver", "overlay",
		},
		// Debian's crun refuses machines with both versions of cgroups.
		build: []string{"bud", "--layers", "--pull-never", "--network", "host", "--runtime", "/usr/sbin/runc"},
		env:   environ("DOCKER_BUILDKIT="),
	}
	p.close = func() error {
		// It leaves its storage mounted on itself.
		err := syscall.Unmount(filepath.Join(root, "root", "overlay"), 0)
		if errors.Is(err, syscall.EINVAL) || errors.Is(err, os.ErrNotExist) {
			err = nil
		}
		return err
	}
	dir := filepath.Join(root, "base")
	err := errors.Join(os.MkdirAll(dir, 0o755), os.Link(archive, filepath.Join(dir, "image.tar")),
		os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM scratch\nADD image.tar /\nCMD [\"sh\"]\n"), 0o644))
	if err == nil {
		_, err = p.builds(ctx, "localhost/"+imageName, dir)
	}
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	out, _ := exec.CommandContext(ctx, buildahProgram, "--version").Output()
	p.about = strings.TrimSpace(string(out))
	return p, nil
}

// imageCommand runs the platform's command about images and says how long it
// took.
func (p *platform) imageCommand(ctx context.Context, args ...string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.image[0], append(p.image[1:len(p.image):len(p.image)], args...)...)
	cmd.Env = p.env
	cmd.WaitDelay = time.Second
	began := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(began)
	if err != nil {
		err = fmt.Errorf("%s %s: %w: %s", p.name, strings.Join(args, " "), err, tail(string(out)))
	}
	return took, err
}

// builds builds an image of a directory.
func (p *platform) builds(ctx context.Context, name, dir string) (time.Duration, error) {
	return p.imageCommand(ctx, append(p.build[:len(p.build):len(p.build)], "-t", name, dir)...)
}

// recipe writes a Dockerfile into a directory of the platform's own.
func (b *bench) recipe(p *platform, name, text string) (dir string, err error) {
	dir = filepath.Join(b.scratch, "recipes", p.name, name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	base := imageName
	if p.name == buildahColumn {
		base = "localhost/" + base
	}
	return dir, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(strings.ReplaceAll(text, "BASE", base)), 0o644)
}

// fresh is a number no build has seen.
func (b *bench) fresh() string {
	b.counter++
	return fmt.Sprintf("%d-%d", b.began.UnixNano(), b.counter)
}

// playCached builds what was built: five files and five steps, nothing of it
// changed, and then with the fourth file changed.
func playCached(ctx context.Context, b *bench, p *platform, add recorder) error {
	var text strings.Builder
	text.WriteString("FROM BASE\n")
	for i := range 5 {
		fmt.Fprintf(&text, "COPY f%d /f%d\nRUN cat /f%d >/r%d\n", i, i, i, i)
	}
	dir, err := b.recipe(p, "ten", text.String())
	if err != nil {
		return err
	}
	write := func(i int) error {
		return os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), []byte(b.fresh()), 0o644)
	}
	for i := range 5 {
		if err := write(i); err != nil {
			return err
		}
	}
	if _, err := p.builds(ctx, "ten", dir); err != nil {
		return err
	}
	for range 5 {
		took, err := p.builds(ctx, "ten", dir)
		if err != nil {
			return err
		}
		add.took(buildCached, took)
	}
	if err := write(3); err != nil {
		return err
	}
	took, err := p.builds(ctx, "ten", dir)
	if err == nil {
		add.took(buildChanged, took)
	}
	return err
}

// playSteps builds what was never built: one step, eleven in a row, ten that
// do not wait for each other.
func playSteps(ctx context.Context, b *bench, p *platform, add recorder) error {
	built := func(name, text string) (time.Duration, error) {
		dir, err := b.recipe(p, name, text)
		if err != nil {
			return 0, err
		}
		return p.builds(ctx, name, dir)
	}
	row := func(n int) string {
		text := "FROM BASE\n"
		for range n {
			text += "RUN true " + b.fresh() + "\n"
		}
		return text
	}
	first, err := built("one", row(1))
	if err != nil {
		return err
	}
	add.took(buildOne, first)
	eleven, err := built("eleven", row(11))
	if err != nil {
		return err
	}
	add.took(buildTrue, (eleven-first)/10)

	text, last := "", "FROM BASE\n"
	for i := range 10 {
		text += fmt.Sprintf("FROM BASE AS s%d\nRUN sleep 0.5; echo %s >/made\n", i, b.fresh())
		last += fmt.Sprintf("COPY --from=s%d /made /made%d\n", i, i)
	}
	took, err := built("stages", text+last)
	if err == nil {
		add.took(buildTen, took)
	}
	return err
}
