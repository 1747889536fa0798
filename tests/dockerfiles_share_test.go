package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// What builds need not do twice they do once, and what does not wait for
// another is done at the same time.
func TestBuildsShare(t *testing.T) {
	t.Parallel()
	needsDocker(t)
	m := newMachine(t, memory())
	run := func(name string, f func(t *testing.T, m *machine)) {
		t.Run(name, func(t *testing.T) { f(t, m.with(t)) })
	}
	// The first: nobody else writes to the store meanwhile.
	run("the base is stored once", func(t *testing.T, m *machine) {
		bases := func() int {
			found, err := filepath.Glob(filepath.Join(m.root, "images", "snapshots", "snapshots", "*", "fs", "bin", "busybox"))
			if err != nil {
				t.Fatal(err)
			}
			return len(found)
		}
		size := func() int64 { return sizeBelow(t, filepath.Join(m.root, "images")) }
		before := size()
		dir := m.source("small", "FROM busybox\nRUN dd if=/dev/urandom of=/large bs=1024 count=512\nCMD [\"sha256sum\", \"/large\"]\n")
		m.build("-t", "small", dir)
		built := size()
		// The file, its layer's archive, and what is written about them.
		if grown := built - before; bases() != 1 || grown > 3*512<<10 {
			t.Errorf("a base of %d bytes: with an image of 512 KiB more the store grew by %d; the base lies there %d times", before, grown, bases())
		}
		m.dockerOK("run", "--rm", "small")
		m.build("-t", "small:again", dir)
		if grown := size() - built; bases() != 1 || grown > 64<<10 {
			t.Errorf("the image has run, and the store grew by %d; the base lies there %d times", grown, bases())
		}
	})
	run("ten independent steps run at once", func(t *testing.T, m *machine) {
		// Each waits for the nine others.
		var text strings.Builder
		text.WriteString("FROM busybox AS base\n")
		for i := range 10 {
			fmt.Fprintf(&text, `
FROM base AS s%d
RUN --mount=type=cache,target=/meet touch /meet/%d; n=0; \
    until [ "$(ls /meet | wc -l)" = 10 ]; do n=$((n+1)); [ $n -lt 200 ] || exit 1; sleep 0.1; done; touch /met-%d
`, i, i, i)
		}
		text.WriteString("FROM scratch\n")
		for i := range 10 {
			fmt.Fprintf(&text, "COPY --from=s%d /met-%d /\n", i, i)
		}
		m.build("-t", "met", m.source("meet", text.String()))
	})
	run("equal steps of builds at the same time run once", func(t *testing.T, m *machine) {
		dir := m.source("equal", "FROM busybox\nRUN --mount=type=cache,target=/seen echo x >>/seen/count; sleep 0.5; cat /proc/sys/kernel/random/uuid >/id\n")
		var work sync.WaitGroup
		results := make([]result, 4)
		for i := range results {
			work.Go(func() {
				results[i] = m.patient("gantry", nil, "image", "build", "-q", "-t", fmt.Sprintf("equal:%d", i), dir)
			})
		}
		work.Wait()
		for _, r := range results {
			if r.code != 0 || r.out != results[0].out {
				t.Errorf("%s\nthe first gave %s", r, results[0].out)
			}
		}
		count := m.source("count", "FROM busybox\nRUN --mount=type=cache,target=/seen cp /seen/count /count\n")
		if got := m.built(count, "count"); got != "x" {
			t.Errorf("the step has run %d times", strings.Count(got, "x"))
		}
	})
	run("only what depends on a changed file runs again", func(t *testing.T, m *machine) {
		dir := m.source("parts", `
FROM busybox AS left
COPY left /in
RUN cat /proc/sys/kernel/random/uuid >/left
FROM busybox AS right
COPY right /in
RUN cat /proc/sys/kernel/random/uuid >/right
FROM busybox AS both
COPY --from=left /left /
COPY --from=right /right /
RUN cat /proc/sys/kernel/random/uuid >/both
`, "left", "1", "right", "1", "README", "1")
		ids := func() (left, right, both string) {
			m.built(dir, "left")
			out := filepath.Join(dir, "out")
			return read(t, filepath.Join(out, "left")), read(t, filepath.Join(out, "right")), read(t, filepath.Join(out, "both"))
		}
		write(t, filepath.Join(dir, ".dockerignore"), "out\n")
		left, right, both := ids()
		write(t, filepath.Join(dir, "README"), "2")
		if l, r, b := ids(); l != left || r != right || b != both {
			t.Error("a file that no step reads has changed, and steps run again")
		}
		write(t, filepath.Join(dir, "right"), "2")
		if l, r, b := ids(); l != left || r == right || b == both {
			t.Errorf("before %s %s %s, after %s %s %s: the first alone should be as it was", left, right, both, l, r, b)
		}
	})
	run("a failing step shows its lines and its output", func(t *testing.T, m *machine) {
		dir := m.source("fails", "FROM busybox\nRUN echo fine\nRUN echo before the end && \\\n    sh -c 'echo to stderr >&2; exit 7'\nRUN echo never\n")
		r := m.in(dir, "image", "build", "--progress", "plain", ".")
		if r.code == 0 {
			t.Fatalf("it does not fail: %s", r)
		}
		for _, want := range []string{"before the end", "to stderr", "Dockerfile:3", ">>> RUN echo before the end", "exit code: 7"} {
			if !strings.Contains(r.err, want) {
				t.Errorf("%q is missing: %s", want, r)
			}
		}
		for _, kit := range []string{"0", "1"} {
			r := m.patient(dockerProgram, []string{"DOCKER_BUILDKIT=" + kit}, "build", dir)
			if r.code == 0 || !strings.Contains(r.out+r.err, "to stderr") || !strings.Contains(r.out+r.err, "exit code: 7") {
				t.Errorf("DOCKER_BUILDKIT=%s: %s", kit, r)
			}
		}
	})
}

// sizeBelow adds up what files take on the disk.
func sizeBelow(t testing.TB, dir string) (sum int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil //nolint:nilerr // it went away meanwhile
		}
		if info, err := d.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sum
}
