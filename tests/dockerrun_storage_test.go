package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// storageRows are the flags for volumes and mounts. dir is the test's own, dir/src
// has a file, dir/shared and dir/slave are mounts of those kinds.
func storageRows(dir string) []dockerRun {
	src := dir + "/src"
	options := func(target string) string {
		return "grep ' " + target + " ' /proc/self/mountinfo | cut -d' ' -f6,7"
	}
	return []dockerRun{
		row("-v "+src+":/in", "cat /in/file; touch /in/rw1 && echo rw", "content\nrw"),
		row("-v "+src+":/in:ro", "cat /in/file; touch /in/x 2>&1 | grep -o Read-only", "content\nRead-only"),
		row("-v "+src+":/in:rw,z", "touch /in/rw2 && echo rw", "rw"),
		row("-v "+src+":/in:Z", "touch /in/rw3 && echo rw", "rw"),
		row("-v "+src+"/file:/file:ro", "cat /file", "content"),
		row("-v "+dir+"/made-by-bind:/in", "ls -d /in", "/in"),
		row("-v "+src+":/in:rprivate", options("/in"), "rw,.* -"),
		row("-v "+src+":/in:private", options("/in"), "rw,.* -"),
		row("-v "+dir+"/shared:/in:rshared", options("/in"), "rw,.* shared:.*"),
		row("-v "+dir+"/shared:/in:shared", options("/in"), "rw,.* shared:.*"),
		row("-v "+dir+"/shared:/in:rslave", options("/in"), "rw,.* master:.*"),
		row("-v "+dir+"/shared:/in:slave", options("/in"), "rw,.* master:.*"),
		row("-v "+dir+"/shared/deep:/in:rshared", options("/in"), "rw,.* shared:.*"),
		refusedRow("-v "+src+":/in:rshared", "not.*shared"),
		refusedRow("-v "+src+":/in:rslave", "not.*shared"),
		refusedRow("-v "+src+":/in:no-such", "no-such"),
		refusedRow("-v "+src+":/in -v "+dir+":/in", "Duplicate mount point"),
		refusedRow("-v "+src+":relative", "absolute"),
		refusedRow("-v "+src+":/", "/"),
		row("-v vol-a:/in", "touch /in/x && echo made", "made"),
		row("-v vol-b:/bin2 -v vol-c:/etc:nocopy", "ls /etc | grep -c passwd || true", "0"),
		row("-v vol-d:/etc", "ls /etc | grep passwd", "passwd"),
		row("-v vol-e:/in:ro", "touch /in/x 2>&1 | grep -o Read-only", "Read-only"),
		row("-v /anonymous", "touch /anonymous/x && echo made", "made"),
		row("-v "+src+":/in:cached", "cat /in/file", "content"),
		refusedRow("-v vol-a:/in:rshared", "bind"),
		refusedRow("-v bad/name:/in", "bad/name|absolute"),
		row("--volume-driver local -v vol-f:/in", "touch /in/x && echo made", "made"),
		refusedRow("--volume-driver other -v vol-g:/in", "other"),
		row("--mount type=bind,source="+src+",target=/in", "cat /in/file", "content"),
		row("--mount type=bind,src="+src+",dst=/in,readonly", "touch /in/x 2>&1 | grep -o Read-only", "Read-only"),
		row("--mount type=bind,src="+src+",dst=/in,bind-propagation=rprivate", "cat /in/file", "content"),
		row("--mount type=bind,src="+dir+"/shared,dst=/in,bind-propagation=rshared", options("/in"), "rw,.* shared:.*"),
		refusedRow("--mount type=bind,src="+src+",dst=/in,bind-propagation=rshared", "not.*shared"),
		row("--mount type=bind,src="+dir+"/shared,dst=/in", "ls /in/below", "sub"),
		row("--mount type=bind,src="+dir+"/shared,dst=/in,bind-nonrecursive", "ls /in/below | wc -l", "0"),
		refusedRow("--mount type=bind,src="+dir+"/not-there,dst=/in", "not-there"),
		refusedRow("--mount type=bind,src="+src+",dst=/in,volume-nocopy", "volume"),
		row("--mount type=volume,src=vol-h,dst=/etc,volume-nocopy", "ls /etc | grep -c passwd || true", "0"),
		row("--mount type=volume,dst=/in,volume-label=a=b", "touch /in/x && echo made", "made"),
		row("--mount type=volume,src=vol-i,dst=/in,readonly", "touch /in/x 2>&1 | grep -o Read-only", "Read-only"),
		row("--mount type=volume,src=vol-j,dst=/in,volume-driver=local,volume-opt=type=tmpfs,volume-opt=device=tmpfs,volume-opt=o=size=2m", "df -k /in | tail -1 | awk '{print $2}'", "2048"),
		row("--mount type=volume,src=vol-k,dst=/in,volume-opt=type=none,volume-opt=device="+src+",volume-opt=o=bind", "cat /in/file", "content"),
		{flags: []string{"--mount", `type=volume,src=vol-o,dst=/in,volume-opt=type=none,volume-opt=device=` + src + `,"volume-opt=o=bind,noexec,nosuid,ro"`},
			inside: options("/in"), want: "ro,nosuid,noexec,.*"},
		{flags: []string{"--mount", `type=volume,src=vol-p,dst=/in,volume-opt=type=none,volume-opt=device=` + dir + `/shared,"volume-opt=o=rbind,rslave"`},
			inside: "ls /in/below; " + options("/in"), want: "sub\nrw,.* master:.*"},
		{flags: []string{"--mount", `type=volume,src=vol-q,dst=/in,volume-opt=type=none,volume-opt=device=` + dir + `/shared,"volume-opt=o=bind"`},
			inside: "ls /in/below | wc -l", want: "0"},
		refusedRow("--mount type=volume,src=vol-r,dst=/in,volume-opt=type=nfs,volume-opt=device=:/x,volume-opt=o=addr=192.0.2.1", "nfs"),
		refusedRow("--mount type=volume,src=vol-l,dst=/in,volume-driver=other", "other"),
		refusedRow("--mount type=volume,src=vol-m,dst=/in,volume-opt=no=such", "no"),
		row("--mount type=tmpfs,dst=/in,tmpfs-size=1m,tmpfs-mode=1750", "df -k /in | tail -1 | awk '{print $2}'; stat -c %a /in", "1024\n1750"),
		row("--mount type=tmpfs,dst=/in", "touch /in/x && echo made", "made"),
		refusedRow("--mount type=npipe,src=x,dst=/in", "npipe"),
		row("--tmpfs /in", "mount | grep ' /in '", "tmpfs on /in type tmpfs .*nosuid,nodev,noexec.*"),
		row("--tmpfs /in:size=1m,mode=700,exec", "stat -c %a /in; mount | grep ' /in ' | grep -c noexec || true; df -k /in | tail -1 | awk '{print $2}'", "700\n0\n1024"),
		row("--tmpfs /in:uid=7,gid=8,ro", "stat -c %u:%g /in; touch /in/x 2>&1 | grep -o Read-only", "7:8\nRead-only"),
		refusedRow("--tmpfs /in:no-such=1", "no-such"),
		row("--volumes-from donor", "cat /given/x; touch /given/y && echo rw; cat /bound/file", "1\nrw\ncontent"),
		row("--volumes-from donor:ro", "touch /given/z 2>&1 | grep -o Read-only; cat /bound/file", "Read-only\ncontent"),
		row("--volumes-from donor:rw -v vol-n:/given", "ls /given | wc -l", "0"),
		refusedRow("--volumes-from no-such", "no-such"),
		refusedRow("--volumes-from donor:sideways", "sideways"),
	}
}

func TestDockerRunStorage(t *testing.T) {
	t.Parallel()
	needsDocker(t)
	m := bareMachine(t)
	write(t, filepath.Join(m.dir, "src", "file"), "content\n")
	shared := filepath.Join(m.dir, "shared")
	for _, d := range []string{filepath.Join(shared, "below"), filepath.Join(shared, "deep")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mount := func(source, target, kind string, flags uintptr) {
		t.Helper()
		if err := unix.Mount(source, target, kind, flags, ""); err != nil {
			t.Fatalf("mount %s: %v", target, err)
		}
	}
	mount(shared, shared, "", unix.MS_BIND)
	t.Cleanup(func() { unix.Unmount(shared, unix.MNT_DETACH) })
	mount("", shared, "", unix.MS_SHARED)
	mount("tmpfs", filepath.Join(shared, "below"), "tmpfs", 0)
	t.Cleanup(func() { unix.Unmount(filepath.Join(shared, "below"), unix.MNT_DETACH) })
	write(t, filepath.Join(shared, "below", "sub"), "")

	m.ok("image", "import", archive(t, "busybox"), "busybox", "--change", `CMD ["sh"]`)
	m.dockerOK("run", "--name", "donor", "-v", "given:/given", "-v", m.dir+"/src:/bound:ro", "busybox", "sh", "-c", "echo 1 > /given/x")
	t.Run("flags", func(t *testing.T) { runRows(t, m, storageRows(m.dir)) })
	m.dockerOK("rm", "donor")

	t.Run("newer", m.newerMounts)
	t.Run("subpath", m.subpaths)
	t.Run("propagates", m.propagates)
	t.Run("later", m.mountedLater)
	for v := range strings.FieldsSeq(m.dockerOK("volume", "ls", "-q")) {
		m.dockerOK("volume", "rm", v)
	}
}

// newerMounts are fields that Debian's client cannot say.
func (m *machine) newerMounts(t *testing.T) {
	m = m.with(t)
	src := filepath.Join(m.dir, "src")
	shared := filepath.Join(m.dir, "shared")
	type mount = map[string]any
	for name, c := range map[string]struct {
		mount  mount
		inside string
		want   string // of the log, or of the error
		code   int    // of create
	}{
		"create the source": {mount{"Type": "bind", "Source": src + "/new", "Target": "/in", "BindOptions": mount{"CreateMountpoint": true}}, "ls -d /in", "/in", 201},
		"read-only, not below": {mount{"Type": "bind", "Source": shared, "Target": "/in", "ReadOnly": true, "BindOptions": mount{"ReadOnlyNonRecursive": true}},
			"touch /in/x 2>/dev/null || echo ro; touch /in/below/x && echo rw", "ro\nrw", 201},
		"read-only, all of it": {mount{"Type": "bind", "Source": shared, "Target": "/in", "ReadOnly": true, "BindOptions": mount{"ReadOnlyForceRecursive": true, "Propagation": "rprivate"}},
			"touch /in/below/y 2>/dev/null || echo ro", "ro", 201},
		"recursive, not read-only": {mount{"Type": "bind", "Source": shared, "Target": "/in", "BindOptions": mount{"ReadOnlyForceRecursive": true}}, "true", "ead-only|ReadOnly", 400},
		"an image":                 {mount{"Type": "image", "Source": "busybox", "Target": "/in"}, "ls -d /in/bin; touch /in/x 2>/dev/null || echo ro", "/in/bin\nro", 201},
		"a directory of one":       {mount{"Type": "image", "Source": "busybox", "Target": "/in", "ImageOptions": mount{"Subpath": "bin"}}, "ls /in/sh", "/in/sh", 201},
		"no image":                 {mount{"Type": "image", "Source": "no-such", "Target": "/in"}, "true", "no-such", 404},
		"cluster":                  {mount{"Type": "cluster", "Source": "x", "Target": "/in"}, "true", "cluster", 501},
		"tmpfs options":            {mount{"Type": "tmpfs", "Target": "/in", "TmpfsOptions": mount{"Options": [][]string{{"exec"}, {"nr_inodes", "5"}}}}, "mount | grep ' /in ' | grep -c noexec || true", "0", 201},
	} {
		t.Run(name, func(t *testing.T) {
			m := m.with(t)
			m.checkAPI(map[string]any{"Mounts": []mount{c.mount}}, c.inside, c.want, c.code)
		})
	}
}

// subpaths: a directory of a volume, and no way out of it.
func (m *machine) subpaths(t *testing.T) {
	m = m.with(t)
	m.dockerOK("run", "--rm", "-v", "tree:/v", "busybox", "sh", "-c", "mkdir -p /v/a/b; echo deep > /v/a/b/f; ln -s / /v/out; ln -s ../../.. /v/a/up; ln -s b /v/a/link; echo file > /v/single")
	for sub, c := range map[string]struct {
		inside, want string
		code         int
	}{
		"a/b":      {"cat /in/f", "deep", 201},
		"a/link":   {"cat /in/f", "deep", 201},
		"single":   {"cat /in", "file", 201},
		"out/etc":  {"ls /in", "!", 201}, // at the start: it leads out
		"a/up/etc": {"ls /in", "!", 201},
		"no-such":  {"ls /in", "!", 201},
		"../x":     {"true", "subpath", 400},
		"/etc":     {"true", "subpath", 400},
	} {
		t.Run(sub, func(t *testing.T) {
			m.with(t).checkAPI(map[string]any{"Mounts": []map[string]any{
				{"Type": "volume", "Source": "tree", "Target": "/in", "VolumeOptions": map[string]any{"Subpath": sub}}}}, c.inside, c.want, c.code)
		})
	}
}

// checkAPI creates and starts a container with a host configuration and
// compares what it prints. want "!": the start is refused.
func (m *machine) checkAPI(host map[string]any, inside, want string, code int) {
	t := m.t
	t.Helper()
	m.checkCreate(map[string]any{"Image": "busybox", "Cmd": []string{"sh", "-c", inside}, "HostConfig": host}, want, code)
}

// propagates: what is mounted inside a shared mount appears outside, and what
// is mounted outside appears inside a slave.
func (m *machine) propagates(t *testing.T) {
	m = m.with(t)
	shared := filepath.Join(m.dir, "shared")
	m.dockerOK("run", "--rm", "--privileged", "-v", shared+":/in:rshared", "busybox", "sh", "-c", "mkdir -p /in/deep/inner && mount -t tmpfs inner /in/deep/inner && touch /in/deep/inner/made-inside")
	inner := filepath.Join(shared, "deep", "inner")
	if _, err := os.Stat(filepath.Join(inner, "made-inside")); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("umount", inner).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	m.dockerOK("run", "-d", "--name", "slave", "-v", shared+":/in:rslave", "busybox", "sleep", "1000")
	if err := unix.Mount("outer", filepath.Join(shared, "deep"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(filepath.Join(shared, "deep"), unix.MNT_DETACH) })
	write(t, filepath.Join(shared, "deep", "made-outside"), "")
	if out := m.dockerOK("exec", "slave", "ls", "/in/deep"); out != "made-outside" {
		t.Errorf("a slave sees %q", out)
	}
	m.dockerOK("rm", "-f", "slave")
}

// mountedLater: what is mounted on the machine after gantry was started reaches
// containers, also where / is not shared, and the machine keeps it.
func (m *machine) mountedLater(t *testing.T) {
	m = m.with(t)
	late := filepath.Join(m.dir, "late")
	for _, d := range []string{late, filepath.Join(m.dir, "outer", "below")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	below := filepath.Join(m.dir, "outer", "below")
	for _, d := range []string{late, below} {
		if err := unix.Mount("tmpfs", d, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(d, unix.MNT_DETACH) })
		write(t, filepath.Join(d, "file"), "late\n")
	}
	if err := unix.Mount("", late, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(late, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(late, "sub"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(filepath.Join(late, "sub"), unix.MNT_DETACH) })
	write(t, filepath.Join(late, "sub", "file"), "later\n")
	for flags, want := range map[string]string{
		"-v " + late + ":/in":                                          "late\nlater",
		"-v " + late + ":/in:ro":                                       "late\nlater",
		"-v " + late + ":/in:rslave":                                   "late\nlater",
		"-v " + late + "/file:/in/file:ro":                             "late",
		"-v " + m.dir + "/outer:/out -v " + m.dir + "/outer/below:/in": "late\nlate",
		"--mount type=bind,src=" + late + ",dst=/in,bind-nonrecursive": "late",
	} {
		args := append([]string{"run", "--rm"}, strings.Fields(flags)...)
		if out := m.dockerOK(append(args, "busybox", "sh", "-c", "cat /in/file /in/sub/file /out/below/file 2>/dev/null; true")...); out != want {
			t.Errorf("%s shows %q, want %q", flags, out, want)
		}
	}
	m.dockerOK("run", "--rm", "--privileged", "-v", late+":/in:rshared", "busybox", "sh", "-c", "mkdir /in/new && mount -t tmpfs new /in/new && touch /in/new/made-inside")
	if _, err := os.Stat(filepath.Join(late, "new", "made-inside")); err != nil {
		t.Error(err)
	}
	if out, err := exec.Command("umount", filepath.Join(late, "new")).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	// Taking it back from the keeper takes nothing from the machine.
	for _, path := range []string{late + "/file", late + "/sub/file", below + "/file"} {
		if _, err := os.Stat(path); err != nil {
			t.Errorf("the machine lost a mount: %v", err)
		}
	}
	if left, _ := filepath.Glob(filepath.Join(m.run, "rootfs", "lent.*")); len(left) > 0 {
		t.Errorf("left on loan: %v", left)
	}
}
