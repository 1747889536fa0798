package kit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/client/build"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	bkclient "github.com/moby/buildkit/client"
	"github.com/tonistiigi/fsutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestPrefixed(t *testing.T) {
	for step, want := range map[string]string{"[stage 2/3] RUN x": "[web stage 2/3] RUN x", "exporting": "[web] exporting"} {
		if got := prefixed("web", step); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestIsArchive(t *testing.T) {
	tar := make([]byte, 512)
	copy(tar[257:], "ustar\x0000")
	for text, want := range map[string]bool{string(tar): true, "\x1f\x8b\x08x": true, "BZh9": true, "\x28\xb5\x2f\xfdx": true, "FROM x\n": false, "": false} {
		if got := isArchive([]byte(text)); got != want {
			t.Errorf("%.10q: got %v", text, got)
		}
	}
}

// What the daemon said is told without the way it took, on one line, and is
// still what it is.
func TestSaid(t *testing.T) {
	err := said(fmt.Errorf("failed to solve: %w", status.Error(codes.NotFound, "no\nsuch stage")))
	if err.Error() != "no such stage" || !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	own := errors.New("own")
	if got := said(own); got != own {
		t.Errorf("got %v", got)
	}
	if err := said(status.Error(codes.Unavailable, "eof")); !errdefs.IsUnavailable(err) {
		t.Errorf("got %v", err)
	}
}

// An output has its name when the build has succeeded, and never before.
func TestOutputsAreWhole(t *testing.T) {
	dir := t.TempDir()
	dest := filepath.Join(dir, "sub", "out.tar")
	for _, fails := range []error{errors.New("it failed"), nil} {
		targets, opt := &targets{stdout: os.Stdout}, &bkclient.SolveOpt{}
		r := build.Request{Tags: []string{"a", "b"}, Outputs: []build.Output{{Type: build.OutputOCI, Dest: dest}, {Type: "cacheonly"}}}
		if err := targets.prepare(r, opt); err != nil {
			t.Fatal(err)
		}
		if len(opt.Exports) != 1 || opt.Exports[0].Attrs["name"] != "a,b" {
			t.Errorf("got %+v", opt.Exports)
		}
		w, err := opt.Exports[0].Output(nil)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, "whole")
		w.Close()
		if _, err := os.Stat(dest); err == nil {
			t.Error("a half file has the name of a whole one")
		}
		if err := targets.finish(fails); err != fails {
			t.Errorf("got %v", err)
		}
		text, _ := os.ReadFile(dest)
		left, _ := os.ReadDir(filepath.Dir(dest))
		if want := map[bool]string{true: "", false: "whole"}[fails != nil]; string(text) != want || len(left) != len(want)/5 {
			t.Errorf("got %q and %d files after %v", text, len(left), fails)
		}
	}
}

// Where a Dockerfile is, and how it is told to the frontend.
func TestSources(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"Dockerfile": "FROM a", "docker/web": "FROM b", "low/dockerfile": "FROM c"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	const url = "https://x.y/z.git"
	for _, tt := range []struct {
		name    string
		r       build.Request
		stdin   string
		attrs   string // key=value, sorted not
		mounts  string
		failure string
	}{
		{"default", build.Request{Context: dir}, "", "filename=Dockerfile", "context dockerfile", ""},
		{"lower case", build.Request{Context: dir + "/low"}, "", "filename=Dockerfile", "context dockerfile", ""},
		{"elsewhere", build.Request{Context: dir + "/low", Dockerfile: dir + "/docker/web"}, "", "filename=web", "context dockerfile", ""},
		{"inline", build.Request{Context: dir, Inline: "FROM x"}, "", "filename=Dockerfile", "context dockerfile", ""},
		{"url", build.Request{Context: url, Dockerfile: "a/b"}, "", "context=" + url + " filename=a/b", "", ""},
		{"url and inline", build.Request{Context: url, Inline: "FROM x"}, "", "context=" + url + " dockerfilekey=dockerfile filename=Dockerfile", "dockerfile", ""},
		{"from stdin", build.Request{Context: build.Stdin}, "FROM x", "filename=Dockerfile", "context dockerfile", ""},
		{"named", build.Request{Context: dir, Contexts: map[string]string{"a": dir, "b": "docker-image://c", "d": url}}, "",
			"context:a=local:named-a context:b=docker-image://c context:d=" + url + " filename=Dockerfile", "context dockerfile named-a", ""},
		{"no directory", build.Request{Context: dir + "/nosuch"}, "", "", "", "no directory"},
		{"no Dockerfile", build.Request{Context: dir + "/docker"}, "", "", "", "no Dockerfile"},
		{"a directory", build.Request{Context: dir, Dockerfile: dir + "/low"}, "", "", "", "is a directory"},
		{"no image", build.Request{Context: dir, Contexts: map[string]string{"a": "service:b"}}, "", "", "", "has made no image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in, err := os.CreateTemp(t.TempDir(), "")
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			io.WriteString(in, tt.stdin)
			in.Seek(0, io.SeekStart)
			k := &kit{streams: Streams{In: in}}
			opt := &bkclient.SolveOpt{FrontendAttrs: map[string]string{}, LocalMounts: map[string]fsutil.FS{}, OCIStores: map[string]content.Store{}}
			_, err = k.sources(t.Context(), tt.r, opt, func(string) string { return "" })
			if tt.failure != "" {
				if err == nil || !strings.Contains(err.Error(), tt.failure) {
					t.Errorf("got %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			delete(opt.FrontendAttrs, "sharedkey:localdir:a")
			if got := fmt.Sprint(opt.FrontendAttrs); got != "map["+strings.ReplaceAll(tt.attrs, "=", ":")+"]" {
				t.Errorf("got %s, want %s", got, tt.attrs)
			}
			var mounts []string
			for name := range opt.LocalMounts {
				mounts = append(mounts, name)
			}
			for _, want := range strings.Fields(tt.mounts) {
				if opt.LocalMounts[want] == nil {
					t.Errorf("%s is not mounted, but %v", want, mounts)
				}
			}
			if len(mounts) != len(strings.Fields(tt.mounts)) {
				t.Errorf("got %v, want %s", mounts, tt.mounts)
			}
		})
	}
}
