package tests

import (
	"archive/tar"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Builds of people one does not trust: contexts, archives and Dockerfiles that
// try to lead out. They are refused or harmless; what lies outside is neither
// written nor read.
func TestHostileBuilds(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	w := &wrecker{m: m, http: m.httpClient(4)}
	defer w.http.CloseIdleConnections()
	target := filepath.Join(m.dir, "target")
	write(t, filepath.Join(target, "kept"), "as it was")
	link := func(name, to string, kind byte) entry {
		return entry{tar.Header{Name: name, Linkname: to, Typeflag: kind, Mode: 0o777}, ""}
	}
	named := func(name, text string) entry { return file(name, []byte(text)) }
	up := strings.Repeat("../", 30) + target[1:]
	evil := tarOf(t, link("out", target, tar.TypeSymlink), named("out/evil", "evil"), link("hard", target+"/kept", tar.TypeLink), named("hard", "evil"))
	climbing := tarOf(t, named(up+"/evil", "evil"))
	absolute := tarOf(t, named(target+"/evil", "evil"))
	outside := tarOf(t, link("out", up, tar.TypeSymlink), link("kept", "out/kept", tar.TypeLink), named("kept", "evil"))
	dockerfile := func(text string) entry { return named("Dockerfile", text) }
	show := "\nCMD [\"sh\", \"-c\", \"cat /it /it/* 2>/dev/null\"]\n"
	for name, c := range map[string]struct {
		query   string
		entries []entry
		refused string // part of the error; "" where it may do
	}{
		"a context that climbs":               {entries: []entry{dockerfile("FROM busybox"), named(up+"/evil", "evil")}, refused: "build context"},
		"a context through a link":            {entries: []entry{dockerfile("FROM busybox\nCOPY . /it" + show), link("out", target, tar.TypeSymlink), named("out/evil", "evil")}},
		"a context with absolute names":       {entries: []entry{dockerfile("FROM busybox\nCOPY . /it" + show), named(target+"/evil", "evil")}},
		"a context with hard links":           {entries: []entry{dockerfile("FROM busybox\nCOPY . /it" + show), link("hard", target+"/kept", tar.TypeLink)}, refused: "build context"},
		"a Dockerfile that is a link":         {entries: []entry{link("Dockerfile", target+"/kept", tar.TypeSymlink)}, refused: "Dockerfile"},
		"a Dockerfile that climbs":            {query: "&dockerfile=" + url.QueryEscape(up+"/kept"), entries: []entry{dockerfile("FROM busybox")}, refused: "kept"},
		"a Dockerfile through a link":         {query: "&dockerfile=out/kept", entries: []entry{link("out", target, tar.TypeSymlink)}, refused: "kept"},
		"an ignore file that is a link":       {entries: []entry{dockerfile("FROM busybox\nCOPY . /it" + show), link(".dockerignore", target+"/kept", tar.TypeSymlink)}},
		"a copy through a link":               {entries: []entry{dockerfile("FROM busybox\nCOPY out/kept /it" + show), link("out", target, tar.TypeSymlink)}, refused: "not found"},
		"a copy that climbs":                  {entries: []entry{dockerfile("FROM busybox\nCOPY " + up + "/kept /it" + show)}, refused: "not found"},
		"a copy to a link":                    {entries: []entry{dockerfile("FROM busybox\nRUN ln -s " + target + " /out\nCOPY evil /out/evil" + show), named("evil", "evil")}},
		"a copy from a stage's link":          {entries: []entry{dockerfile("FROM busybox AS a\nRUN ln -s " + target + " /out\nFROM busybox\nCOPY --from=a /out/kept /it" + show)}, refused: "not found"},
		"a directory to work in that is one":  {entries: []entry{dockerfile("FROM busybox\nRUN ln -s " + up + " /out\nWORKDIR /out/made\nRUN echo evil > evil")}},
		"a bind mount through a link":         {entries: []entry{dockerfile("FROM busybox\nRUN --mount=type=bind,source=out,target=/it cp /it/kept /read; true"), link("out", target, tar.TypeSymlink)}},
		"a bind mount that climbs":            {entries: []entry{dockerfile("FROM busybox\nRUN --mount=type=bind,rw,source=" + up + ",target=/it echo evil > /it/evil")}, refused: "not found"},
		"a cache mount through a link":        {entries: []entry{dockerfile("FROM busybox AS a\nRUN mkdir /a && ln -s " + target + " /a/out\nFROM busybox\nRUN --mount=type=cache,from=a,source=/a/out,target=/it echo evil > /it/evil")}},
		"a cache mount that climbs":           {entries: []entry{dockerfile("FROM busybox\nRUN --mount=type=cache,id=" + up + ",target=/it echo evil > /it/evil")}},
		"a mount onto a link":                 {entries: []entry{dockerfile("FROM busybox\nRUN ln -s " + target + " /out\nRUN --mount=type=tmpfs,target=/out echo evil > /out/evil")}},
		"a secret that is a file":             {entries: []entry{dockerfile("FROM busybox\nRUN --mount=type=secret,id=" + target + "/kept,required=true,target=/it cat /it")}, refused: "secret"},
		"an archive with links":               {entries: []entry{dockerfile("FROM busybox\nADD evil.tar /it/" + show), named("evil.tar", string(evil))}},
		"an archive that climbs":              {entries: []entry{dockerfile("FROM busybox\nADD evil.tar /it/" + show), named("evil.tar", string(climbing))}},
		"an archive with absolute names":      {entries: []entry{dockerfile("FROM busybox\nADD evil.tar /it/" + show), named("evil.tar", string(absolute))}},
		"an archive with hard links":          {entries: []entry{dockerfile("FROM busybox\nADD evil.tar /it/" + show), named("evil.tar", string(outside))}},
		"an archive onto a link":              {entries: []entry{dockerfile("FROM busybox\nRUN ln -s " + target + " /out\nADD evil.tar /out/"), named("evil.tar", string(tarOf(t, named("evil", "evil"))))}},
		"a step that looks for the daemon":    {entries: []entry{dockerfile("FROM busybox\nRUN ! test -e " + m.root + " && ! test -e " + m.run + " && ! mount -t tmpfs x /mnt && ! ls /proc/1/root" + target)}},
		"a step that makes devices":           {entries: []entry{dockerfile("FROM busybox\nRUN mknod /d b 7 0 && ! head -c1 /d")}},
		"a name with a huge header":           {entries: []entry{dockerfile("FROM busybox"), named(strings.Repeat("d/", 100_000)+"x", "x")}, refused: "build context"},
		"a context that is no archive":        {entries: nil, refused: ""},
		"a syntax from nowhere":               {entries: []entry{dockerfile("# syntax=registry.invalid/evil:1\nFROM busybox")}, refused: "registry.invalid"},
		"a parent cgroup that climbs":         {query: "&cgroupparent=../../..", entries: []entry{dockerfile("FROM busybox\nRUN true")}},
		"a target in a huge Dockerfile":       {query: "&target=none", entries: []entry{dockerfile("FROM busybox\n" + strings.Repeat("# comment\n", 10_000))}, refused: "target stage"},
		"a Dockerfile with an endless line":   {entries: []entry{dockerfile("FROM busybox\nLABEL x=" + strings.Repeat("x", 300_000))}},
		"arguments that refer to one another": {entries: []entry{dockerfile("ARG A=$B\nARG B=$A\nFROM busybox\nARG A\nLABEL x=$A$B")}},
	} {
		t.Run(name, func(t *testing.T) {
			m := m.with(t)
			tag := fmt.Sprintf("hostile:%x", md5.Sum([]byte(name)))
			_, err := w.answer(t.Context(), "POST", "/build?t="+url.QueryEscape(tag)+c.query, tarOf(t, c.entries...))
			if c.refused != "" && (err == nil || !strings.Contains(err.Error(), c.refused)) {
				t.Errorf("want %q, got %v", c.refused, err)
			}
			if err != nil {
				t.Log(err)
			} else {
				out := m.ran(w, tag)
				if strings.Contains(out, "as it was") {
					t.Errorf("the image has read what is outside: %s", out)
				}
			}
			left, rerr := os.ReadDir(target)
			if rerr != nil || len(left) != 1 {
				t.Fatalf("it wrote outside: %v %v", left, rerr)
			}
			if data, err := os.ReadFile(filepath.Join(target, "kept")); err != nil || string(data) != "as it was" {
				t.Fatalf("it changed a file outside: %q %v", data, err)
			}
		})
	}
	if _, err := w.answer(t.Context(), "POST", "/build", []byte(strings.Repeat("no archive ", 1000))); err == nil {
		t.Error("what is no archive was built")
	}
}

// ran runs an image's own command and gives what it printed.
func (m *machine) ran(w *wrecker, image string) string {
	m.t.Helper()
	if err := w.container("look", image); err != nil {
		m.t.Fatal(err)
	}
	defer func() { _ = w.send("DELETE", "/containers/look?force=1", nil) }()
	err := w.send("POST", "/containers/look/start", nil)
	_, werr := w.answer(context.Background(), "POST", "/containers/look/wait", nil)
	out, lerr := w.answer(context.Background(), "GET", "/containers/look/logs?stdout=1&stderr=1", nil)
	if err := errors.Join(err, werr, lerr); err != nil {
		m.t.Fatal(err)
	}
	return string(out)
}
