package api

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"

	"gantry/runtime"
	"gantry/runtime/rootfs"

	"github.com/containerd/errdefs"
)

// What the fake has: /file, /broken, which ends before it is complete, and
// /gone, which ends before it has begun.

func (f *fake) path(ref, path string) (runtime.PathStat, error) {
	if _, err := f.Inspect(ref); err != nil {
		return runtime.PathStat{}, err
	}
	if path != "/file" && path != "/broken" && path != "/gone" {
		return runtime.PathStat{}, fmt.Errorf("Could not find the file %s in container %s: %w", path, ref, errdefs.ErrNotFound) //nolint:staticcheck // Docker's text
	}
	return runtime.PathStat{Name: path[1:], Size: 5, Mode: fs.ModeDir | fs.ModeSticky | 0o755, ModTime: time.Unix(1e9, 5).UTC(), LinkTarget: "/to"}, f.fail
}

func (f *fake) StatPath(_ context.Context, ref, path string) (runtime.PathStat, error) {
	return f.path(ref, path)
}

type breaking struct{ io.Reader }

func (breaking) Close() error { return nil }

func (f *fake) GetArchive(_ context.Context, ref, path string) (runtime.PathStat, io.ReadCloser, error) {
	st, err := f.path(ref, path)
	var end io.Reader = strings.NewReader("")
	switch path {
	case "/broken":
		end = errorReader{errors.New("the container was removed")}
	case "/gone":
		return st, breaking{errorReader{fmt.Errorf("the container was removed: %w", errdefs.ErrConflict)}}, err
	}
	return st, breaking{io.MultiReader(strings.NewReader("tar of "+path), end)}, err
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

func (f *fake) PutArchive(_ context.Context, ref, path string, o runtime.PutOptions, archive io.Reader) error {
	if _, err := f.path(ref, path); err != nil {
		return err
	}
	b, err := io.ReadAll(archive)
	if err != nil {
		return err
	}
	return f.note("put %s %s %+v %s", ref, path, o, b)
}

func (f *fake) ExportContainer(_ context.Context, ref string) (io.ReadCloser, error) {
	if _, err := f.Inspect(ref); err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader("everything")), f.fail
}

func (f *fake) Changes(_ context.Context, ref string) ([]runtime.Change, error) {
	if c, err := f.Inspect(ref); err != nil || c.Name != "web" {
		return nil, err
	}
	return []runtime.Change{{Path: "/etc", Kind: rootfs.Modified}, {Path: "/etc/x", Kind: rootfs.Added}, {Path: "/gone", Kind: rootfs.Deleted}}, nil
}

func TestArchive(t *testing.T) {
	f := &fake{containers: []runtime.Container{{ID: strings.Repeat("a", 64), Name: "web"}, {ID: strings.Repeat("b", 64), Name: "new"}}}
	host := serve(t, Options{Engine: f})
	for _, c := range []struct {
		request, body string
		status        int
		answer        string
	}{
		{"HEAD /containers/web/archive?path=/file", "", 200, ""},
		{"HEAD /containers/web/archive?path=/nothing", "", 404, ""},
		{"HEAD /containers/nobody/archive?path=/file", "", 404, ""},
		{"HEAD /containers/web/archive", "", 400, ""},
		{"GET /v1.41/containers/web/archive?path=/file", "", 200, "tar of /file"},
		{"GET /containers/web/archive", "", 400, `{"message":"bad parameter: path cannot be empty"}`},
		{"GET /containers/web/archive?path=/nothing", "", 404, `{"message":"Could not find the file /nothing in container web"}`},
		{"PUT /containers/web/archive?path=/file&noOverwriteDirNonDir=true", "body", 200, ""},
		{"PUT /containers/web/archive?path=/file&copyUIDGID=1&noOverwriteDirNonDir=0", "", 200, ""},
		{"PUT /containers/web/archive?path=/nothing", strings.Repeat("x", 1<<20), 404, `{"message":"Could not find the file /nothing in container web"}`},
		{"GET /containers/web/export", "", 200, "everything"},
		{"GET /containers/nobody/export", "", 404, `{"message":"No such container: nobody"}`},
		{"GET /containers/web/changes", "", 200, `[{"Kind":0,"Path":"/etc"},{"Kind":1,"Path":"/etc/x"},{"Kind":2,"Path":"/gone"}]`},
		{"GET /containers/new/changes", "", 200, "null"},
		{"GET /containers/nobody/changes", "", 404, `{"message":"No such container: nobody"}`},
	} {
		method, path, _ := strings.Cut(c.request, " ")
		resp, answer := send(t, host, method, path, c.body)
		status, head := resp.StatusCode, resp.Header
		if status != c.status || answer != c.answer {
			t.Errorf("%s: %d %s", c.request, status, answer)
		}
		stat, err := base64.StdEncoding.DecodeString(head.Get("X-Docker-Container-Path-Stat"))
		if err != nil {
			t.Error(err)
		}
		want := ""
		if status == 200 && method != "PUT" && strings.Contains(path, "archive?path=/file") {
			want = `{"name":"file","size":5,"mode":2148532717,"mtime":"2001-09-09T01:46:40.000000005Z","linkTarget":"/to"}`
		}
		if string(stat) != want {
			t.Errorf("%s: the path is %s", c.request, stat)
		}
	}
	want := []string{"put web /file {NoOverwrite:true ToUser:false} body", "put web /file {NoOverwrite:false ToUser:true} "}
	if got := f.noted(); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("calls: %q", got)
	}

	// An archive that is not complete does not look as if it were.
	resp, err := plain(host).Get("http://x/containers/web/archive?path=/broken")
	if err == nil {
		_, err = io.ReadAll(resp.Body)
		resp.Body.Close()
	}
	if err == nil {
		t.Error("a broken archive ends as a whole one does")
	}
	resp, err = plain(host).Get("http://x/containers/web/archive?path=/gone")
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusConflict {
		t.Errorf("an archive that has not begun: %s", resp.Status)
	}
}
