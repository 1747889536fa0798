// Command record plays the scenes of tests/recorded to a dockerd of its own
// and writes its answers into their files. With names of scenes it plays those
// alone. It runs as root and needs Debian's docker.io, which
// `scripts/setup bench` installs, and the image busybox of scripts/images.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"gantry/tests/recorded"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "record:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	dir := flag.String("scenes", "tests/recorded/testdata", "directory of the scenes")
	busybox := flag.String("busybox", "build/images/busybox.tar", "archive of the image")
	flag.Parse()
	scenes, err := recorded.Scenes(*dir)
	if err != nil {
		return err
	}
	scratch, err := os.MkdirTemp("", "rec-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
	d, err := startDocker(ctx, scratch)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.stop()) }()
	p := &recorded.Player{Socket: d.socket, Busybox: *busybox, Root: filepath.Join(scratch, "root"), Rest: time.Second}
	var failed error
	for _, s := range scenes {
		if names := flag.Args(); len(names) > 0 && !slices.Contains(names, s.Name) {
			continue
		}
		answered, err := p.Play(ctx, s)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		if err := os.WriteFile(filepath.Join(*dir, s.Name+".scene"), []byte(answered.String()), 0o644); err != nil {
			return err
		}
		fmt.Printf("%s: %d requests, %d events\n", s.Name, len(answered.Exchanges), len(answered.Events))
	}
	return errors.Join(failed, p.Clear(context.WithoutCancel(ctx)))
}

// docker is a dockerd with directories, and namespaces for network and mounts,
// of its own: its bridges, rules and mounts end with it.
type docker struct {
	socket string
	cmd    *exec.Cmd
	ended  chan error
}

const (
	dockerd = "/usr/sbin/dockerd"
	cgroup  = "recorder" // dockerd leaves it behind
)

func startDocker(ctx context.Context, dir string) (*docker, error) {
	if _, err := os.Stat(dockerd); err != nil {
		return nil, fmt.Errorf("%w; run `scripts/setup bench` first", err)
	}
	// dockerd would use it, and leave things in it.
	if _, err := os.Stat("/run/containerd/containerd.sock"); err == nil {
		return nil, errors.New("a containerd listens on /run/containerd/containerd.sock, and dockerd would use it; stop it first")
	}
	config := filepath.Join(dir, "daemon.json")
	if err := os.WriteFile(config, []byte("{}\n"), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	d := &docker{socket: filepath.Join(dir, "docker.sock"), ended: make(chan error, 1)}
	d.cmd = exec.Command("unshare", "--net", "--mount", "--propagation", "private", "--",
		"sh", "-c", `ip link set lo up && exec "$@"`, "sh", dockerd, "--config-file", config,
		"--data-root", filepath.Join(dir, "root"), "--exec-root", filepath.Join(dir, "exec"), "--pidfile", filepath.Join(dir, "pid"),
		"--host", "unix://"+d.socket, "--storage-driver", "overlay2", "--exec-opt", "native.cgroupdriver=cgroupfs",
		"--cgroup-parent", cgroup, "--shutdown-timeout", "5")
	d.cmd.Stdout, d.cmd.Stderr = log, log
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { d.ended <- d.cmd.Wait() }()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && ctx.Err() == nil; time.Sleep(50 * time.Millisecond) {
		if conn, err := net.Dial("unix", d.socket); err == nil {
			return d, conn.Close()
		}
		select {
		case how := <-d.ended:
			said, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("dockerd ended: %w: %s", how, said)
		default:
		}
	}
	return nil, errors.Join(errors.New("dockerd does not listen"), ctx.Err(), d.stop())
}

func (d *docker) stop() error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	var err error
	select {
	case <-d.ended:
	case <-time.After(30 * time.Second):
		err = errors.Join(errors.New("dockerd did not end within 30s and is killed"), d.cmd.Process.Kill())
		<-d.ended
	}
	for _, pattern := range []string{"/sys/fs/cgroup/" + cgroup, "/sys/fs/cgroup/*/" + cgroup} {
		dirs, _ := filepath.Glob(pattern)
		for _, dir := range dirs {
			err = errors.Join(err, syscall.Rmdir(dir))
		}
	}
	return err
}
