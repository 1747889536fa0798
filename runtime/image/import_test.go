package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
)

func gz(b []byte) []byte {
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	w.Write(b)
	w.Close()
	return buf.Bytes()
}

func zst(b []byte) []byte {
	w, _ := zstd.NewWriter(nil)
	return w.EncodeAll(b, nil)
}

func bz(t *testing.T, b []byte) []byte {
	t.Helper()
	path, err := exec.LookPath("bzip2")
	if err != nil {
		t.Skip("needs bzip2 to make the archive: ", err)
	}
	cmd := exec.Command(path, "-c")
	cmd.Stdin = bytes.NewReader(b)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestImportBusybox(t *testing.T) {
	bin, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs a static busybox: ", err)
	}
	s := newStore(t)
	rootfs := makeTar(t,
		entry{name: "./"},
		entry{name: "bin/"},
		entry{name: "bin/busybox", body: string(bin), mode: 0o4755},
		entry{name: "bin/sh", kind: '2', link: "busybox"},
		entry{name: "bin/cat", kind: '1', link: "bin/busybox", mode: 0o4755},
		entry{name: "etc/", uid: 3},
		entry{name: "tmp/", mode: 0o1777})
	img, err := s.Import(t.Context(), bytes.NewReader(rootfs), ImportOptions{
		Name:    "busybox",
		Message: "made by hand",
		Changes: []string{`CMD ["sh"]`, "ENV PATH=/bin"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(img.Names) != 1 || img.Names[0] != "busybox:latest" || img.Config.Config.Cmd[0] != "sh" ||
		img.Config.History[0].Comment != "made by hand" || img.Platform.OS != "linux" || img.Created.IsZero() {
		t.Errorf("image: %+v", img)
	}
	dirs, err := s.Lowers(t.Context(), img.ID)
	if err != nil || len(dirs) != 1 {
		t.Fatalf("lowers: %v %v", dirs, err)
	}
	a, err1 := os.Stat(filepath.Join(dirs[0], "bin/busybox"))
	b, err2 := os.Stat(filepath.Join(dirs[0], "bin/cat"))
	if err1 != nil || err2 != nil || !os.SameFile(a, b) || a.Mode()&os.ModeSetuid == 0 {
		t.Errorf("hard link or mode lost: %v %v %v", err1, err2, a.Mode())
	}
	etc, _ := os.Stat(filepath.Join(dirs[0], "etc"))
	if etc.Sys().(*syscall.Stat_t).Uid != 3 {
		t.Errorf("owner of /etc lost")
	}
	out, err := (&exec.Cmd{Path: "/bin/sh", Args: []string{"sh", "-c", "echo it runs"},
		SysProcAttr: &syscall.SysProcAttr{Chroot: dirs[0]}}).Output()
	if err != nil || string(out) != "it runs\n" {
		t.Errorf("run: %q %v", out, err)
	}
	mustBeClean(t, s)
}

func TestImportCompressed(t *testing.T) {
	plainTar := makeTar(t, entry{name: "hello", body: strings.Repeat("x", 100_000)})
	var diffs []string
	for name, packed := range map[string][]byte{"gzip": gz(plainTar), "zstd": zst(plainTar), "bzip2": bz(t, plainTar), "plain": plainTar} {
		s := newStore(t)
		img, err := s.Import(t.Context(), bytes.NewReader(packed), ImportOptions{Name: name})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		diffs = append(diffs, img.Layers[0].String())
		mustBeClean(t, s)
	}
	for _, d := range diffs {
		if d != diffs[0] {
			t.Errorf("the same tree has different layers: %v", diffs)
		}
	}
}

func TestImportSameTwiceKeepsOneLayer(t *testing.T) {
	s := newStore(t)
	a := mustImport(t, s, "a", entry{name: "f", body: "1"})
	b := mustImport(t, s, "b", entry{name: "f", body: "1"})
	da, _ := s.Lowers(t.Context(), a.ID)
	db, err := s.Lowers(t.Context(), b.ID)
	if err != nil || da[0] != db[0] {
		t.Errorf("one layer, two directories: %v %v %v", da, db, err)
	}
	mustBeClean(t, s)
}

func TestImportMovesName(t *testing.T) {
	s := newStore(t)
	old := mustImport(t, s, "web", entry{name: "f", body: "1"})
	mustImport(t, s, "web", entry{name: "f", body: "2"})
	got, err := s.Get(t.Context(), old.ID.String())
	if err != nil || len(got.Names) != 0 {
		t.Fatalf("the old image is %+v, %v; want it dangling", got, err)
	}
	mustBeClean(t, s)
	if all, _ := s.List(t.Context()); len(all) != 2 {
		t.Errorf("%d images after a collection, want 2", len(all))
	}
}

// failing breaks off with an error of its own.
type failing struct {
	r   io.Reader
	err error
}

func (f failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err == io.EOF {
		err = f.err
	}
	return n, err
}

func TestImportBadInput(t *testing.T) {
	noise := make([]byte, 300_000)
	for i := range noise {
		noise[i] = byte(i * i >> 3)
	}
	good := makeTar(t, entry{name: "a", body: "a"}, entry{name: "b", body: string(noise)})
	broken := errors.New("connection reset")
	for _, c := range []struct {
		name string
		in   io.Reader
		o    ImportOptions
		want string
	}{
		{"empty", bytes.NewReader(nil), ImportOptions{}, "the archive is empty"},
		{"text", strings.NewReader(strings.Repeat("no tar at all ", 100)), ImportOptions{}, "not a tar archive"},
		{"short text", strings.NewReader("hello"), ImportOptions{}, "truncated or not a tar archive"},
		{"truncated", bytes.NewReader(good[:200_000]), ImportOptions{}, `truncated: it ends at entry 2, "b"`},
		{"truncated gzip", bytes.NewReader(gz(good)[:600]), ImportOptions{}, `truncated: it ends at entry 2, "b"`},
		{"truncated zstd", bytes.NewReader(zst(good)[:600]), ImportOptions{}, "truncated"},
		{"gzip checksum", bytes.NewReader(append(gz(good)[:len(gz(good))-8], 1, 2, 3, 4, 5, 6, 7, 8)), ImportOptions{}, "checksum"},
		{"xz", strings.NewReader("\xfd7zXZ\x00aaaaaa"), ImportOptions{}, "xz is not supported"},
		{"zip", strings.NewReader("PK\x03\x04aaaaaa"), ImportOptions{}, "zip is not supported"},
		{"reader fails", failing{bytes.NewReader(good[:100_000]), broken}, ImportOptions{}, "connection reset"},
		{"name", bytes.NewReader(good), ImportOptions{Name: "UPPER"}, "lowercase"},
		{"digest as name", bytes.NewReader(good), ImportOptions{Name: "a@sha256:" + strings.Repeat("a", 64)}, "cannot be given"},
		{"change", bytes.NewReader(good), ImportOptions{Changes: []string{"RUN x"}}, `"RUN" is not one of`},
		{"platform", bytes.NewReader(good), ImportOptions{Platform: "windows/amd64"}, "only images for linux"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newStore(t)
			_, err := s.Import(t.Context(), c.in, c.o)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), s.dir) {
				t.Errorf("not an error for people: %v", err)
			}
			if !errors.Is(err, broken) && !errdefs.IsInvalidArgument(err) {
				t.Errorf("class of %v", err)
			}
			mustBeClean(t, s)
		})
	}
}

func TestImportCancelled(t *testing.T) {
	s := newStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		w.Write(makeTar(t, entry{name: "a", body: "a"})[:600])
		cancel()
		w.CloseWithError(io.ErrClosedPipe)
	}()
	if _, err := s.Import(ctx, r, ImportOptions{Name: "x"}); err == nil {
		t.Fatal("imported although cancelled")
	}
	mustBeClean(t, s)
}

func TestChanges(t *testing.T) {
	c, err := importConfig(ImportOptions{Changes: []string{
		"ENV A=1 B=\"two words\" C='$A' E=a\\ b A2=$A",
		"ENV D=$A-${B}",
		"env OLD the $A rest",
		"LABEL org.x=\"y z\" v=${MISSING:-dflt} w=${A:+set}",
		"ENTRYPOINT [\"/bin/x\", \"-c\"]\nCMD echo $HOME",
		"EXPOSE 80 443/tcp 53/udp 8000-8002",
		"USER app:app",
		"WORKDIR /srv",
		"WORKDIR sub",
		"VOLUME [\"/data\", \"/my logs\"]",
		"VOLUME /a /b",
		"STOPSIGNAL SIGQUIT",
		"HEALTHCHECK --interval=5s --timeout=1s --retries=3 --start-period=1m CMD curl -f http://x",
		"ONBUILD RUN make \\\n  all",
		"# nothing\n",
	}})
	if err != nil {
		t.Fatal(err)
	}
	got := c.Config
	want := map[string]any{
		"env":    []string{"A=1", "B=two words", "C=$A", "E=a b", "A2=", "D=1-two words", "OLD=the 1 rest"},
		"labels": map[string]string{"org.x": "y z", "v": "dflt", "w": "set"},
		"entry":  []string{"/bin/x", "-c"},
		"cmd":    []string{"/bin/sh", "-c", "echo $HOME"},
		"ports": map[string]struct{}{"80/tcp": {}, "443/tcp": {}, "53/udp": {},
			"8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}},
		"volumes": map[string]struct{}{"/data": {}, "/my logs": {}, "/a": {}, "/b": {}},
		"health":  []string{"CMD-SHELL", "curl -f http://x"},
		"onbuild": []string{"RUN make   all"},
		"words":   []string{"app:app", "/srv/sub", "SIGQUIT", "5s", "1m0s"},
	}
	have := map[string]any{
		"env": got.Env, "labels": got.Labels, "entry": got.Entrypoint, "cmd": got.Cmd, "ports": got.ExposedPorts,
		"volumes": got.Volumes, "health": got.Healthcheck.Test, "onbuild": got.OnBuild,
		"words": []string{got.User, got.WorkingDir, got.StopSignal, got.Healthcheck.Interval.String(), got.Healthcheck.StartPeriod.String()},
	}
	if d := cmp.Diff(want, have); d != "" {
		t.Error(d)
	}
}

func TestBadChanges(t *testing.T) {
	for _, c := range []struct{ change, want string }{
		{"FROM x", "is not one of"},
		{"CMD", "needs a value"},
		{"ENV A", "write A=VALUE"},
		{"ENV A=1 B", "is not NAME=VALUE"},
		{"ENV =x", "has no name"},
		{`ENV A="x`, "is not closed"},
		{"ENV A=${B", "only ${NAME}"},
		{"ENV A=${B:-x", "is missing"},
		{"EXPOSE 0", "from 1 to 65535"},
		{"EXPOSE 99999", "from 1 to 65535"},
		{"EXPOSE 90-80", "from 1 to 65535"},
		{"EXPOSE 80/icmp", "tcp, udp or sctp"},
		{"USER a b", "exactly one word"},
		{"STOPSIGNAL SIGNONE", "no signal"},
		{"STOPSIGNAL 99", "between 1 and 64"},
		{"HEALTHCHECK --interval=x CMD y", "not a duration"},
		{"HEALTHCHECK --every=1s CMD y", "is not one of --interval"},
		{"HEALTHCHECK TEST y", "neither NONE nor CMD"},
		{"HEALTHCHECK CMD", "needs a command"},
		{"ONBUILD ONBUILD RUN x", "not possible after ONBUILD"},
		{`VOLUME [""]`, "cannot be empty"},
	} {
		_, err := importConfig(ImportOptions{Changes: []string{c.change}})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.change, err, c.want)
		}
	}
}
