package build

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"gantry/runtime/keeper"
	"gantry/runtime/rootfs"
	"gantry/runtime/spec"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/buildkit/executor"
	gateway "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"golang.org/x/sys/unix"
)

func TestSyntaxThatIsBuiltIn(t *testing.T) {
	for source, want := range map[string]bool{
		"docker/dockerfile":             true,
		"docker/dockerfile:1":           true,
		"docker.io/docker/dockerfile:1": true,
		"docker/dockerfile:1.7":         true,
		"docker/dockerfile:latest":      true,
		"docker/dockerfile:1-labs":      false,
		"docker/dockerfile:1.7-labs":    false,
		"docker/dockerfile:master":      false,
		"docker/dockerfile-upstream:1":  false,
		"example.com/docker/dockerfile": false,
		"docker/dockerfile:1@sha256:0000000000000000000000000000000000000000000000000000000000000000": false,
		"not a reference": false,
		"":                false,
	} {
		if got := builtIn(source); got != want {
			t.Errorf("%q: %v", source, got)
		}
	}
}

func TestNamesAreWrittenOut(t *testing.T) {
	for in, want := range map[string]string{
		"":               "",
		"*":              "*",
		"web":            "docker.io/library/web:latest",
		"web:1, team/db": "docker.io/library/web:1,docker.io/team/db:latest",
		"host:5000/a":    "host:5000/a:latest",
	} {
		got, err := fullNames(in)
		if err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	if _, err := fullNames("Web"); err == nil {
		t.Error("a name in capitals was taken")
	}
}

func TestStepIsAContainer(t *testing.T) {
	got, err := stepConfig(executor.Meta{
		Args: []string{"true"}, Env: []string{"A=1"}, User: "web", Cwd: "/src", ReadonlyRootFS: true,
		NetMode: pb.NetMode_HOST, SecurityMode: pb.SecurityMode_INSECURE,
		Ulimit:         []*pb.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}},
		LinuxResources: &pb.LinuxResources{Memory: 1 << 20, CpuQuota: 5, CpusetCpus: "0"},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := spec.Config{
		Command: []string{"true"}, Env: []string{"A=1"}, User: "web", WorkingDir: "/src", ReadOnly: true,
		Hostname: hostname, Privileged: true, Network: spec.Network{Mode: "host"},
		Ulimits:   []spec.Ulimit{{Name: "nofile", Soft: 1, Hard: 2}},
		Resources: spec.Resources{Memory: 1 << 20, CPUQuota: 5, CpusetCpus: "0"},
	}
	if d := cmp.Diff(want, got, cmp.Comparer(func(a, b spec.Endpoint) bool { return true })); d != "" {
		t.Error(d)
	}
	if _, err := stepConfig(executor.Meta{CDIDevices: []*pb.CDIDevice{{Name: "x.com/gpu=0"}}}); err == nil {
		t.Error("a device was ignored")
	}
}

func TestOverlayOfAMount(t *testing.T) {
	got := overlay(mount.Mount{Type: "overlay", Options: []string{"index=off", "workdir=/w", "upperdir=/u", "lowerdir=/b:/a", "userxattr"}})
	if d := cmp.Diff(rootfs.Overlay{Lower: []string{"/b", "/a"}, Upper: "/u", Work: "/w"}, got); d != "" {
		t.Error(d)
	}
}

func TestVerdicts(t *testing.T) {
	for _, x := range []struct {
		exit  keeper.Exit
		valid []int
		code  uint32 // 0: no error
	}{
		{keeper.Exit{Known: true}, nil, 0},
		{keeper.Exit{Known: true, Code: 3}, nil, 3},
		{keeper.Exit{Known: true, Code: 3}, []int{3}, 0},
		{keeper.Exit{Known: true}, []int{3}, 0xdead},
		{keeper.Exit{Known: true, Code: 137, OOM: true}, nil, 137},
		{keeper.Exit{Code: 255}, nil, gateway.UnknownExitStatus},
	} {
		err := verdict(x.exit, x.valid)
		var e *gateway.ExitError
		switch {
		case x.code == 0 && err != nil:
			t.Errorf("%+v: %v", x, err)
		case x.code == 0:
		case !errors.As(err, &e):
			t.Errorf("%+v: %v", x, err)
		case x.code != 0xdead && e.ExitCode != x.code:
			t.Errorf("%+v: exit code %d", x, e.ExitCode)
		}
	}
}

func TestFramesAreTakenApart(t *testing.T) {
	var in bytes.Buffer
	put := func(stream byte, text string) {
		head := [8]byte{stream}
		binary.BigEndian.PutUint32(head[4:], uint32(len(text)))
		in.Write(head[:])
		in.WriteString(text)
	}
	put(1, "out")
	put(2, "err")
	put(1, "")
	put(1, "put")
	var stdout, stderr bytes.Buffer
	if err := unframe(&in, &stdout, &stderr); err != nil {
		t.Fatal(err)
	}
	if stdout.String() != "output" || stderr.String() != "err" {
		t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
	in.Write([]byte{1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff})
	if err := unframe(&in, &stdout, &stderr); err == nil {
		t.Error("a frame of 4 GiB was taken")
	}
	in.Reset()
	in.Write([]byte{1, 0})
	if err := unframe(&in, &stdout, &stderr); err == nil {
		t.Error("half a head was taken for the end")
	}
}

func TestOptionsOfABuild(t *testing.T) {
	one := "1"
	got, err := Request{
		Dockerfile: "a/Dockerfile", Target: "run", Args: map[string]*string{"V": &one, "UNSET": nil}, Labels: map[string]string{"l": "x"},
		NoCache: true, Pull: true, NetworkMode: "none", ShmSize: 5, Ulimits: []string{"nofile=1:2", "core=0:0"},
		ExtraHosts: []string{"a:10.0.0.1", "b=[::1]", "c:host-gateway"}, Limits: map[string]string{"memory": "9"},
	}.frontendAttrs()
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"filename": "a/Dockerfile", "target": "run", "build-arg:V": "1", "label:l": "x", "no-cache": "", "image-resolve-mode": "pull",
		"force-network-mode": "none", "shm-size": "5", "ulimit": "nofile=1:2,core=0:0", "add-hosts": "a=10.0.0.1,b=::1,c=host-gateway", "memory": "9",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for _, bad := range []Request{{NetworkMode: "shop_edge"}, {ExtraHosts: []string{"nothing"}}} {
		if _, err := bad.frontendAttrs(); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

func TestTheReserveIsGivenUpOnce(t *testing.T) {
	b := &Builder{Options: Options{Root: t.TempDir()}}
	b.keepReserve()
	path := filepath.Join(b.Root, reserveFile)
	if fi, err := os.Stat(path); err != nil || fi.Size() != reserveSize {
		t.Fatalf("%v, %v", fi, err)
	}
	tries := 0
	err := b.withReserve(func() error {
		if tries++; tries == 1 {
			return fmt.Errorf("write: %w", unix.ENOSPC)
		}
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the reserve is kept: %v", err)
		}
		return nil
	})
	if err != nil || tries != 2 {
		t.Errorf("%v after %d tries", err, tries)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("it is not made again: %v", err)
	}
	tries = 0
	if err := b.withReserve(func() error { tries++; return errors.New("another") }); err == nil || tries != 1 {
		t.Errorf("%v after %d tries", err, tries)
	}
}
