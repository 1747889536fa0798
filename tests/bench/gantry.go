package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// openGantry starts a daemon of its own in a scratch directory, with the
// benchmark's image.
func openGantry(ctx context.Context, bin, scratch, archive string) (*platform, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	for _, program := range []string{"gantry", "gantryd", "gantry-runtime"} {
		if _, err := os.Stat(filepath.Join(bin, program)); err != nil {
			return nil, fmt.Errorf("%w; run `make build` first, or say --bin DIR", err)
		}
	}
	root, run := filepath.Join(scratch, "gantry"), filepath.Join(scratch, "run")
	p := &platform{
		name:    gantryColumn,
		command: []string{filepath.Join(bin, "gantry")},
		image:   []string{filepath.Join(bin, "gantry"), "image"},
		build:   []string{"build"},
		env:     environ("GANTRY_ROOT="+root, "GANTRY_RUN="+run),
		mark:    run,
		client:  dialAPI(filepath.Join(run, "gantry.sock")),
	}
	p.close = func() error { return closeGantry(p, run) }
	cmd := exec.CommandContext(ctx, p.command[0], "image", "import", archive, imageName)
	cmd.Env = p.env
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("gantry image import: %w: %s", err, tail(string(out))), p.close())
	}
	version, _ := exec.CommandContext(ctx, filepath.Join(bin, "gantryd"), "--version").Output()
	p.about = strings.TrimSpace(string(version))
	return p, nil
}

// closeGantry stops daemon and keeper, and insists.
func closeGantry(p *platform, run string) error {
	ctx := context.Background()
	var left []struct{ ID string }
	var errs []error
	if err := p.call(ctx, http.MethodGet, apiVersion+"/containers/json?all=1", nil, &left); err == nil {
		for _, c := range left {
			errs = append(errs, p.remove(ctx, c.ID))
		}
		errs = append(errs, p.call(ctx, http.MethodPost, "/daemon/stop", nil, nil))
	}
	if stubborn := p.end(5 * time.Second); stubborn != nil {
		errs = append(errs, stubborn)
	}
	// The daemon binds its run directory to itself.
	if err := syscall.Unmount(run, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// end waits until the platform's processes have ended and kills, one by one,
// those that have not by then; having to is an error.
func (p *platform) end(patience time.Duration) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if len(p.processes()) == 0 {
			return nil
		}
	}
	err := fmt.Errorf("%s did not end within %s and was killed", p.name, patience)
	// Some start others anew when these die.
	for range 20 {
		pids := p.processes()
		if len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("%w, in vain: processes %v", err, p.processes())
}
