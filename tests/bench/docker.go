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

// Where Debian's packages put their programs; others in PATH may be of another
// make.
const (
	dockerdProgram = "/usr/sbin/dockerd"
	dockerProgram  = "/usr/bin/docker"
	composeProgram = "/usr/bin/docker-compose"
)

// openDocker starts Debian's dockerd with network and mount namespaces of its
// own, and all its directories below scratch: its bridges, firewall rules and
// mounts end with it.
func openDocker(ctx context.Context, scratch, archive, cgroup string) (*platform, error) {
	for _, program := range []string{dockerdProgram, dockerProgram, composeProgram, "/usr/bin/containerd"} {
		if _, err := os.Stat(program); err != nil {
			return nil, fmt.Errorf("%w; run `scripts/setup bench` first", err)
		}
	}
	// dockerd would use it, and leave things in it.
	if _, err := os.Stat("/run/containerd/containerd.sock"); err == nil {
		return nil, errors.New("a containerd of this machine listens on /run/containerd/containerd.sock, and dockerd would use it; stop it first")
	}
	dir := filepath.Join(scratch, "docker")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}\n"), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "dockerd.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	socket := filepath.Join(dir, "docker.sock")
	cmd := exec.Command("unshare", "--net", "--mount", "--propagation", "private", "--",
		"sh", "-c", `ip link set lo up && exec "$@"`, "sh", dockerdProgram,
		"--config-file", config, "--data-root", filepath.Join(dir, "root"), "--exec-root", filepath.Join(dir, "exec"),
		"--pidfile", filepath.Join(dir, "pid"), "--host", "unix://"+socket,
		"--storage-driver", "overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs", "--cgroup-parent", cgroup,
		"--iptables=true", "--shutdown-timeout", "5")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = environ()
	// The first Ctrl-C is for the benchmark, which tidies up.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	// unshare and sh execute what comes after them: the process is dockerd.
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	p := &platform{
		name:    dockerColumn,
		command: []string{composeProgram},
		image:   []string{dockerProgram, "image"},
		build:   []string{"build"},
		env:     environ("DOCKER_HOST=unix://"+socket, "DOCKER_BUILDKIT=1", "DOCKER_CONFIG="+dir),
		enter:   []string{"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", cmd.Process.Pid), "--"},
		mark:    dir,
		helpers: []string{"docker-proxy"},
		client:  dialAPI(socket),
	}
	p.close = func() error { return closeDocker(p, cmd.Process, ended) }
	if err := p.ready(ctx, ended); err != nil {
		said, _ := os.ReadFile(log.Name())
		return nil, errors.Join(fmt.Errorf("dockerd does not serve: %w: %s", err, tail(string(said))), p.close())
	}
	load := exec.CommandContext(ctx, dockerProgram, "import", archive, imageName)
	load.Env = p.env
	if out, err := load.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("docker import: %w: %s", err, tail(string(out))), p.close())
	}
	p.about = versions(ctx)
	return p, nil
}

func versions(ctx context.Context) string {
	var all []string
	for _, program := range []string{dockerdProgram, composeProgram} {
		out, _ := exec.CommandContext(ctx, program, "--version").Output()
		line, _, _ := strings.Cut(string(out), "\n")
		line, _, _ = strings.Cut(line, ",")
		all = append(all, line)
	}
	return strings.Join(all, ", ")
}

// ready waits until the daemon answers.
func (p *platform) ready(ctx context.Context, ended chan error) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		err := p.call(ctx, http.MethodGet, "/_ping", nil, nil)
		if err == nil {
			return nil
		}
		select {
		case how := <-ended:
			ended <- how // for close
			//nolint:errorlint // nil if it ended well
			return fmt.Errorf("it ended: %v", how)
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return err
		}
	}
}

// closeDocker removes the containers, so that no shim is left, and ends the
// daemon, which ends its containerd.
func closeDocker(p *platform, daemon *os.Process, ended chan error) error {
	ctx := context.Background()
	var errs []error
	var left []struct{ ID string }
	if err := p.call(ctx, http.MethodGet, apiVersion+"/containers/json?all=1", nil, &left); err == nil {
		for _, c := range left {
			errs = append(errs, p.remove(ctx, c.ID))
		}
	}
	if err := daemon.Signal(syscall.SIGTERM); err == nil {
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			errs = append(errs, errors.New("dockerd did not end within 20s and is killed"), daemon.Kill())
			<-ended
		}
	}
	errs = append(errs, p.end(5*time.Second))
	return errors.Join(errs...)
}
