package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Volumes of every local kind: what is in them, whose it is, how long it stays.
func TestVolumes(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	// An image that brings content for its volumes, with owners and modes.
	content := filepath.Join(m.dir, "content.tar")
	base, err := os.ReadFile(archive(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	const zeroes = 1024 // an archive ends in two blocks of zeroes or more: ours goes on instead
	for len(base) > zeroes && strings.Trim(string(base[len(base)-zeroes:]), "\x00") == "" {
		base = base[:len(base)-zeroes]
	}
	if err := os.WriteFile(content, append(base, tarOf(t,
		dirEntry("./srv", 0o755, 0, 0),
		dirEntry("./srv/data", 0o750, 1234, 5678),
		owned(file("./srv/data/one", []byte("of the image")), 0o640, 1234, 5678),
		dirEntry("./srv/data/sub", 0o755, 1, 1),
		owned(file("./srv/data/sub/two", []byte("deeper")), 0o600, 1, 1),
		linkEntry("./srv/data/link", "sub/two"),
	)...), 0o644); err != nil {
		t.Fatal(err)
	}
	m.ok("image", "import", content, "filled", "--change", `CMD ["sleep", "1000"]`, "--change", "VOLUME /srv/data", "--change", "STOPSIGNAL SIGKILL")
	m.ok("volume", "create", "far")
	host := filepath.Join(m.dir, "host")
	write(t, filepath.Join(host, "file"), "of the host")
	const yaml = `
services:
  web:
    image: filled
    environment: {TURN: "%s"}
    volumes:
      - data:/srv/data
      - far:/far
      - /anonymous
      - ./host:/host
      - ./host/file:/file:ro
      - ./made/by/short:/short
      - {type: bind, source: ./host, target: /long, read_only: true}
      - {type: bind, source: ./made/by/long, target: /longmade, bind: {create_host_path: true}}
      - {type: tmpfs, target: /scratch, tmpfs: {size: 2m, mode: 0700}}
      - {type: volume, source: bare, target: /srv/data2, volume: {nocopy: true}}
      - {type: volume, source: far, target: /part, volume: {subpath: deep/part}}
      - named:/named:ro
  second:
    image: filled
    volumes: ["data:/srv/data:ro", {type: volume, source: bare, target: /srv/data/sub, volume: {nocopy: true}}]
    depends_on: [web]
  plain:
    image: filled
volumes:
  data: {labels: {kept: "yes"}}
  bare: {}
  named: {name: a-name-of-its-own}
  far: {external: true}
`
	project := func(turn string) string { return m.project("vol", fmt.Sprintf(yaml, turn)) }
	dir := project("1")
	if err := os.Rename(host, filepath.Join(dir, "host")); err != nil {
		t.Fatal(err)
	}
	host = filepath.Join(dir, "host")
	mountpoint := strings.TrimSpace(m.ok("volume", "inspect", "far", "--format", "{{.Mountpoint}}"))
	write(t, filepath.Join(mountpoint, "deep", "part", "here"), "a part")
	m.okIn(dir, "up", "-d")

	run := func(name string, f func(t *testing.T, m *machine)) {
		t.Run(name, func(t *testing.T) { f(t, m.with(t)) })
	}
	sees := func(m *machine, service, command, want string) {
		m.t.Helper()
		r := m.in(dir, "exec", "-T", service, "sh", "-c", command+" 2>&1")
		if got := strings.Join(strings.Fields(r.out), " "); got != want {
			m.t.Errorf("%s: %s: got %q, want %q", service, command, got, want)
		}
	}
	run("an empty volume is filled from the image", func(t *testing.T, m *machine) {
		for _, service := range []string{"web", "plain"} {
			sees(m, service, "stat -c '%n %a %u:%g' /srv/data /srv/data/one /srv/data/sub/two", "/srv/data 750 1234:5678 /srv/data/one 640 1234:5678 /srv/data/sub/two 600 1:1")
			sees(m, service, "cat /srv/data/one; readlink /srv/data/link", "of the image"+"sub/two")
		}
		sees(m, "web", "ls -a /srv/data2", ". ..")
		sees(m, "web", "ls -A /anonymous; stat -c %a /anonymous", "755")
	})
	run("volumes are shared, and as writable as asked for", func(t *testing.T, m *machine) {
		m.okIn(dir, "exec", "-T", "web", "sh", "-c", "echo changed >/srv/data/one")
		sees(m, "second", "cat /srv/data/one", "changed")
		sees(m, "second", "touch /srv/data/x", "touch: /srv/data/x: Read-only file system")
		sees(m, "second", "ls -A /srv/data/sub", "") // nocopy held, and it lies over the other
		sees(m, "web", "touch /named/x", "touch: /named/x: Read-only file system")
	})
	run("binds", func(t *testing.T, m *machine) {
		sees(m, "web", "cat /host/file /file /long/file", "of the hostof the hostof the host")
		sees(m, "web", "touch /host/new && touch /short/new /longmade/new && echo made", "made")
		for _, p := range []string{"host/new", "made/by/short/new", "made/by/long/new"} {
			if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
				t.Error(err)
			}
		}
		sees(m, "web", "touch /long/x", "touch: /long/x: Read-only file system")
		sees(m, "web", "(echo x >/file)", "sh: can't create /file: Read-only file system")
		write(t, filepath.Join(host, "later"), "seen at once")
		sees(m, "web", "cat /host/later", "seen at once")
	})
	run("tmpfs", func(t *testing.T, m *machine) {
		sees(m, "web", "stat -f -c %T /scratch; stat -c %a /scratch; df -k /scratch | tail -1 | awk '{print $2}'", "tmpfs 700 2048")
	})
	run("a part of a volume", func(t *testing.T, m *machine) {
		sees(m, "web", "ls /part; cat /part/here", "here a part")
		sees(m, "web", "ls /far", "deep")
	})
	run("names", func(t *testing.T, m *machine) {
		all := strings.Fields(m.ok("volume", "ls", "--format", "{{.Name}}"))
		for _, want := range []string{"vol_data", "vol_bare", "a-name-of-its-own", "far"} {
			if !strings.Contains(" "+strings.Join(all, " ")+" ", " "+want+" ") {
				t.Errorf("%s is not among %v", want, all)
			}
		}
		if len(all) != 6 { // and the two anonymous ones
			t.Errorf("volumes %v", all)
		}
		if got := m.ok("volume", "inspect", "vol_data", "--format", "{{.Labels.kept}} {{.Driver}} {{index .Labels \"com.docker.compose.volume\"}}"); strings.TrimSpace(got) != "yes local data" {
			t.Errorf("inspect: %q", got)
		}
		m.fails(m.dir, []string{"volume", "rm", "vol_data"}, "vol_data", "vol-web-1")
	})
	run("anonymous volumes stay when a container is recreated, twice", func(t *testing.T, m *machine) {
		m.okIn(dir, "exec", "-T", "web", "sh", "-c", "echo kept >/anonymous/file")
		old := m.okIn(dir, "ps", "-q", "web")
		for _, turn := range []string{"2", "3"} {
			project(turn)
			m.okIn(dir, "up", "-d")
			now := m.okIn(dir, "ps", "-q", "web")
			if now == old {
				t.Fatal("it was not recreated")
			}
			old = now
			sees(m, "web", "cat /anonymous/file; cat /srv/data/one; echo $TURN", "kept changed "+turn)
		}
		if n := len(strings.Fields(m.ok("volume", "ls", "-q"))); n != 6 {
			t.Errorf("%d volumes: %s", n, m.ok("volume", "ls"))
		}
	})
	run("unless new ones are asked for", func(t *testing.T, m *machine) {
		project("4")
		m.okIn(dir, "up", "-d", "-V")
		sees(m, "web", "ls -A /anonymous; cat /srv/data/one", "changed")
		if n := len(strings.Fields(m.ok("volume", "ls", "-q"))); n != 6 {
			t.Errorf("the old ones are left: %s", m.ok("volume", "ls"))
		}
	})
	run("down keeps named volumes, down -v does not", func(t *testing.T, m *machine) {
		m.okIn(dir, "down")
		m.okIn(dir, "up", "-d")
		sees(m, "web", "cat /srv/data/one", "changed")
		m.okIn(dir, "down", "-v")
		if got := m.ok("volume", "ls", "-q"); strings.Contains(got, "vol_") || strings.Contains(got, "own") || !strings.Contains(got, "far") {
			t.Errorf("after down -v: %s", got)
		}
		m.okIn(dir, "up", "-d")
		sees(m, "web", "cat /srv/data/one", "of the image")
		sees(m, "web", "cat /part/here", "a part")
		m.okIn(dir, "down", "-v")
		// As with Docker Compose, a plain down lets go of anonymous volumes and
		// keeps them.
		got := strings.Fields(m.ok("volume", "ls", "-q"))
		if len(got) != 3 || got[2] != "far" {
			t.Errorf("after down -v: %v", got)
		}
		m.ok(append([]string{"volume", "rm"}, got[:2]...)...)
		if _, err := os.Stat(filepath.Join(host, "file")); err != nil {
			t.Errorf("down -v took the host's file: %v", err)
		}
		m.ok("volume", "rm", "far")
	})
}

func dirEntry(name string, mode int64, uid, gid int) entry {
	e := owned(file(name+"/", nil), mode, uid, gid)
	e.Typeflag = '5'
	return e
}

func linkEntry(name, target string) entry {
	e := file(name, nil)
	e.Typeflag, e.Linkname = '2', target
	return e
}

func owned(e entry, mode int64, uid, gid int) entry {
	e.Mode, e.Uid, e.Gid = mode, uid, gid
	return e
}
