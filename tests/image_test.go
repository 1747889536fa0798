package tests

import (
	"archive/tar"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Images come in by archive, are listed, named, used and go again.
func TestImages(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	run := func(name string, f func(t *testing.T, m *machine)) {
		t.Run(name, func(t *testing.T) { f(t, m.with(t)) })
	}
	base, err := os.ReadFile(archive(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	save := func(m *machine, name string, data []byte) string {
		m.t.Helper()
		path := filepath.Join(m.dir, name)
		if err := os.WriteFile(path, data, 0o644); err != nil {
			m.t.Fatal(err)
		}
		return path
	}
	// says runs an image's own command, and gives what it printed.
	says := func(m *machine, image string) string {
		m.t.Helper()
		dir := m.project("says", "services: {it: {image: '"+image+"'}}")
		out := m.okIn(dir, "up", "--no-log-prefix")
		m.okIn(dir, "down")
		return out
	}
	run("a configuration", func(t *testing.T, m *machine) {
		path := archive(t, "busybox")
		args := []string{"image", "import", path, "made:2"}
		for _, c := range []string{
			`ENTRYPOINT ["sh", "-c"]`, `CMD ["echo $GREETING from $(pwd) as $(id -un)"]`, "ENV GREETING=hello PATH=/bin", "WORKDIR /tmp/made",
			"USER nobody", "EXPOSE 80 53/udp", "VOLUME /data", "LABEL a=1 b=\"two words\"", "STOPSIGNAL SIGUSR1",
			"HEALTHCHECK --interval=7s --retries=2 CMD test -e /ok",
		} {
			args = append(args, "--change", c)
		}
		id := strings.TrimSpace(m.ok(args...))
		if !strings.HasPrefix(id, "sha256:") {
			t.Errorf("id %q", id)
		}
		if got := m.ok("image", "inspect", "made:2", "--format", `{{.Id}} {{.Config.User}} {{.Config.WorkingDir}} {{index .Config.Labels "b"}} {{.Config.StopSignal}} {{json .Config.ExposedPorts}} {{json .Config.Volumes}} {{.Config.Healthcheck.Retries}}`); strings.TrimSpace(got) !=
			id+` nobody /tmp/made two words SIGUSR1 {"53/udp":{},"80/tcp":{}} {"/data":{}} 2` {
			t.Errorf("inspect: %s", got)
		}
		if got := says(m, "made:2"); !strings.Contains(got, "hello from /tmp/made as nobody") {
			t.Errorf("it says %q", got)
		}
		m.fails(m.dir, []string{"image", "import", path, "made:3", "--change", "RUN true"}, "RUN")
		m.ok("image", "rm", "made:2")
	})
	run("archives of every kind", func(t *testing.T, m *machine) {
		layers := [][]byte{base, tarOf(t, file("etc/greeting", []byte("below\n")), file("etc/gone", nil)),
			tarOf(t, file("etc/greeting", []byte("hello from the top\n")), file("etc/.wh.gone", nil))}
		for name, data := range map[string][]byte{
			"docker":      dockerArchive(t, "loaded:docker", layers...),
			"docker-gzip": gzipped(t, dockerArchive(t, "loaded:docker-gzip", layers...)),
			"docker-zstd": zstandard(t, dockerArchive(t, "loaded:docker-zstd", layers...)),
			"oci":         ociArchive(t, "loaded:oci", "application/vnd.oci.image.layer.v1.tar", plain, layers...),
			"oci-gzip":    ociArchive(t, "loaded:oci-gzip", "application/vnd.oci.image.layer.v1.tar+gzip", gzipped, layers...),
			"oci-zstd":    ociArchive(t, "loaded:oci-zstd", "application/vnd.oci.image.layer.v1.tar+zstd", zstandard, layers...),
		} {
			out := m.ok("image", "load", "-i", save(m, name+".tar", data))
			if strings.TrimSpace(out) != "Loaded image: loaded:"+name {
				t.Errorf("%s: load says %q", name, out)
			}
			if got := says(m, "loaded:"+name); !strings.Contains(got, "hello from the top") {
				t.Errorf("%s: it says %q", name, got)
			}
			if got := m.ok("image", "inspect", "loaded:"+name, "--format", "{{.Config.Labels.made}} {{len .RootFS.Layers}}"); strings.TrimSpace(got) != "here 3" {
				t.Errorf("%s: inspect: %s", name, got)
			}
		}
		for name, data := range map[string][]byte{"gzip": gzipped(t, base), "zstd": zstandard(t, base)} {
			m.ok("image", "import", save(m, name+".tar", data), "imported:"+name, "--change", `CMD ["echo", "hello"]`)
			if got := says(m, "imported:"+name); !strings.Contains(got, "hello") {
				t.Errorf("%s: it says %q", name, got)
			}
		}
	})
	run("names", func(t *testing.T, m *machine) {
		m.ok("image", "tag", "busybox", "example.org/team/box:v1")
		id := strings.TrimSpace(m.ok("image", "inspect", "busybox", "--format", "{{.Id}}"))
		for _, ref := range []string{"example.org/team/box:v1", id, strings.TrimPrefix(id, "sha256:")[:12], "busybox:latest", "docker.io/library/busybox"} {
			if got := strings.TrimSpace(m.ok("image", "inspect", ref, "--format", "{{.Id}}")); got != id {
				t.Errorf("%s is %s", ref, got)
			}
		}
		if out := m.ok("image", "ls", "--format", "{{.Repository}}:{{.Tag}}"); !strings.Contains(out, "example.org/team/box:v1\n") || !strings.Contains(out, "busybox:latest\n") {
			t.Errorf("ls: %s", out)
		}
		if out := m.ok("image", "rm", "example.org/team/box:v1"); !strings.Contains(out, "Untagged: example.org/team/box:v1") || strings.Contains(out, "Deleted") {
			t.Errorf("rm: %s", out)
		}
		m.ok("image", "inspect", "busybox")
		m.fails(m.dir, []string{"image", "rm", "nothere"}, "nothere")
		m.fails(m.dir, []string{"image", "tag", "busybox", "Not A Name"}, "Not A Name")
	})
	run("one in use stays", func(t *testing.T, m *machine) {
		m.ok("image", "import", archive(t, "busybox"), "used", "--change", `CMD ["sleep", "1000"]`, "--change", "STOPSIGNAL SIGKILL", "--change", "LABEL own=1")
		dir := m.project("uses", "services: {web: {image: used}}")
		m.okIn(dir, "up", "-d")
		m.fails(m.dir, []string{"image", "rm", "used"}, "used", "uses-web-1")
		m.okIn(dir, "restart")
		if got := m.state("uses-web-1"); got != "running" {
			t.Errorf("it is %s", got)
		}
		m.okIn(dir, "down")
		if out := m.ok("image", "rm", "used"); !strings.Contains(out, "Deleted: sha256:") {
			t.Errorf("rm: %s", out)
		}
	})
	run("a removed image takes its files along", func(t *testing.T, m *machine) {
		unpacked := func() bool {
			found, err := filepath.Glob(filepath.Join(m.root, "images", "snapshots", "snapshots", "*", "fs", "etc", "brief"))
			if err != nil {
				t.Fatal(err)
			}
			return len(found) > 0
		}
		m.ok("image", "load", "-i", save(m, "brief.tar", dockerArchive(t, "brief:1", tarOf(t, file("etc/brief", []byte("a layer of its own"))))))
		if !unpacked() {
			t.Error("nothing was stored")
		}
		m.ok("image", "rm", "brief:1")
		eventually(t, 10*time.Second, "its files are gone", func() bool { return !unpacked() })
	})
	run("nothing climbs out", func(t *testing.T, m *machine) {
		target := filepath.Join(m.dir, "target")
		write(t, filepath.Join(target, "kept"), "as it was")
		link := func(name, to string, kind byte) entry {
			return entry{tar.Header{Name: name, Linkname: to, Typeflag: kind, Mode: 0o777}, ""}
		}
		evil := file("x", []byte("evil"))
		named := func(name string) entry { e := evil; e.Name = name; return e }
		up := strings.Repeat("../", 20) + strings.TrimPrefix(target, "/")
		for name, entries := range map[string][]entry{
			"dots":     {named(up + "/evil")},
			"absolute": {named(target + "/evil")},
			"symlink":  {link("out", target, tar.TypeSymlink), named("out/evil")},
			"relative": {link("out", up, tar.TypeSymlink), named("out/evil")},
			"chain":    {link("a", target, tar.TypeSymlink), link("b", "a", tar.TypeSymlink), named("b/evil")},
			"hardlink": {link("kept", up+"/kept", tar.TypeLink), named("kept")},
			"hardabs":  {link("kept", target+"/kept", tar.TypeLink), named("kept")},
			"throughlink": {link("out", target, tar.TypeSymlink), link("kept", "out/kept", tar.TypeLink),
				named("kept")},
			"whiteout": {link("out", target, tar.TypeSymlink), named("out/.wh.kept"), named("out/.wh..wh..opq")},
		} {
			layer := tarOf(t, entries...)
			// Refused or kept inside: both will do.
			m.gantry("image", "import", save(m, "evil.tar", layer), "evil:"+name)
			m.gantry("image", "load", "-i", save(m, "evil.tar", dockerArchive(t, "evilload:"+name, base, layer)))
			m.gantry("image", "load", "-i", save(m, "evil.tar", layer))
			left, err := os.ReadDir(target)
			if err != nil || len(left) != 1 {
				t.Fatalf("%s: the archive wrote outside: %v %v", name, left, err)
			}
			if data, err := os.ReadFile(filepath.Join(target, "kept")); err != nil || string(data) != "as it was" {
				t.Fatalf("%s: the archive changed a file outside: %q %v", name, data, err)
			}
		}
	})
}
