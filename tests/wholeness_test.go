package tests

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// The daemon is killed at random moments of everything that changes the store.
// Each time it comes back by itself, every image it lists runs and has all its
// blobs, and nothing of a build is left. In the end the store holds what a clean
// one holds, and builds find their cache.
//
// `make test` kills it ten times; `make wholeness` as often as GANTRY_KILLS says.
func TestWholeness(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a quarter of a minute")
	}
	kills := 10
	if text := os.Getenv("GANTRY_KILLS"); text != "" {
		var err error
		if kills, err = strconv.Atoi(text); err != nil {
			t.Fatalf("GANTRY_KILLS: %v", err)
		}
	} else {
		t.Parallel()
	}
	m := registryMachine(t)
	m.ok("image", "import", archive(t, "busybox"), "busybox", "--change", `CMD ["sh"]`)
	w := newWrecker(m)
	defer w.http.CloseIdleConnections()
	for i := range kills {
		w.kill()
		w.check()
		if t.Failed() {
			t.Fatalf("after %d of %d kills", i+1, kills)
		}
	}
	w.mu.Lock()
	t.Logf("%d kills; done %v, broken off %v", kills, w.done, w.broken)
	w.mu.Unlock()
	w.clean()
}

// wrecker works on a machine's store and kills its daemon.
type wrecker struct {
	m        *machine
	http     *http.Client
	base     []byte // busybox
	registry string

	mu           sync.Mutex
	done, broken map[string]int
}

func newWrecker(m *machine) *wrecker {
	m.t.Helper()
	base, err := os.ReadFile(archive(m.t, "busybox"))
	if err != nil {
		m.t.Fatal(err)
	}
	w := &wrecker{m: m, http: m.httpClient(8), base: base, registry: freeAddress(m.t), done: map[string]int{}, broken: map[string]int{}}
	runBeside(m.t, w.registry, filepath.Join(programs, "gantry"), "registry", "serve", "--addr", w.registry, "--root", filepath.Join(m.dir, "registry"))
	m.makeImage(w.registry+"/pulled:1", 300_000)
	m.ok("image", "push", w.registry+"/pulled:1")
	// One that is committed while it runs.
	if err := w.container("standing", "busybox", "sh", "-c", "while :; do date > /tick; usleep 20000; done"); err != nil {
		m.t.Fatal(err)
	}
	if err := w.send("POST", "/containers/standing/start", nil); err != nil {
		m.t.Fatal(err)
	}
	return w
}

// send makes a request and reads all of its answer, which may tell of an error
// in its last line.
func (w *wrecker) send(method, path string, body []byte) error {
	_, err := w.answer(context.Background(), method, path, body)
	return err
}

func (w *wrecker) answer(ctx context.Context, method, path string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://gantry"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/x-tar")
	if strings.Contains(path, "/containers/create") || strings.HasPrefix(path, "/commit") {
		req.Header.Set("Content-Type", "application/json")
	}
	req.Header.Set("X-Registry-Auth", "e30=")
	resp, err := w.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(text))
	}
	lines := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	var last struct{ Error string }
	if json.Unmarshal(lines[len(lines)-1], &last) == nil && last.Error != "" {
		return nil, fmt.Errorf("%s %s: %s", method, path, last.Error)
	}
	return text, nil
}

func (w *wrecker) container(name, image string, command ...string) error {
	body, err := json.Marshal(map[string]any{"Image": image, "Cmd": command, "StopSignal": "KILL", "HostConfig": map[string]any{"NetworkMode": "none"}})
	if err != nil {
		return err
	}
	return w.send("POST", "/containers/create?name="+name, body)
}

// noise is a layer's worth of files that prove themselves.
func noise() []entry {
	data := make([]byte, 100_000+rand.IntN(500_000))
	for i := range data {
		data[i] = byte(rand.Uint32())
	}
	sum := md5.Sum(data)
	return []entry{file("noise", data), file("noise.md5", []byte(hex.EncodeToString(sum[:])+"  /noise\n"))}
}

// Builds that run beside each other would take what another has put there.
const wreckedDockerfile = `FROM busybox
COPY noise noise.md5 /
RUN --mount=type=cache,target=/cache,sharing=locked cp /noise /cache/ && cp /cache/noise /again
RUN echo more > /more
CMD ["true"]
`

// works are what is broken off.
func (w *wrecker) works() map[string]func() error {
	slot := func(kind string) string { return fmt.Sprintf("%s:%d", kind, rand.IntN(3)) }
	query := func(pairs ...string) string {
		q := url.Values{}
		for i := 0; i < len(pairs); i += 2 {
			q.Set(pairs[i], pairs[i+1])
		}
		return "?" + q.Encode()
	}
	missing := func(err error) error {
		if err != nil && strings.Contains(err.Error(), "404 Not Found") {
			return nil // not made yet
		}
		return err
	}
	return map[string]func() error{
		"import": func() error {
			return w.send("POST", "/images/create"+query("fromSrc", "-", "repo", slot("imported")), w.base)
		},
		"load": func() error {
			return w.send("POST", "/images/load", dockerArchive(w.m.t, slot("loaded"), w.base, tarOf(w.m.t, noise()...)))
		},
		"build": func() error {
			return w.send("POST", "/build"+query("t", slot("built")), tarOf(w.m.t, append(noise(), file("Dockerfile", []byte(wreckedDockerfile)))...))
		},
		"commit": func() error {
			return w.send("POST", "/commit"+query("container", "standing", "repo", slot("committed")), nil)
		},
		"prune":       func() error { return w.send("POST", "/images/prune", nil) },
		"build prune": func() error { return w.send("POST", "/build/prune", nil) },
		"rm": func() error {
			return missing(w.send("DELETE", "/images/"+slot([]string{"imported", "loaded", "built", "committed"}[rand.IntN(4)])+"?force=1", nil))
		},
		"pull": func() error {
			_ = w.send("DELETE", "/images/"+w.registry+"/pulled:1?force=1", nil)
			return w.send("POST", "/images/create"+query("fromImage", w.registry+"/pulled", "tag", "1"), nil)
		},
		"push": func() error {
			name := []string{"loaded", "built", "committed"}[rand.IntN(3)]
			if err := w.send("POST", "/images/"+slot(name)+"/tag"+query("repo", w.registry+"/"+name, "tag", "1"), nil); err != nil {
				return missing(err)
			}
			return missing(w.send("POST", "/images/"+w.registry+"/"+name+"/push?tag=1", nil))
		},
	}
}

// kill kills the daemon while it works, and waits for the next one.
func (w *wrecker) kill() {
	w.m.t.Helper()
	works := w.works()
	var names []string
	for name := range works {
		names = append(names, name)
	}
	stop := make(chan struct{})
	var busy sync.WaitGroup
	for range 2 {
		busy.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				name := names[rand.IntN(len(names))]
				if rand.IntN(3) == 0 {
					name = "build" // takes the longest and has the most to leave behind
				}
				err := works[name]()
				w.mu.Lock()
				if err == nil {
					w.done[name]++
				} else {
					w.broken[name]++
				}
				w.mu.Unlock()
				var refused interface{ Timeout() bool } // a connection's
				if err != nil && !errors.As(err, &refused) && !errors.Is(err, io.ErrUnexpectedEOF) && !w.killed(stop) {
					w.m.t.Errorf("%s: %v", name, err)
				}
			}
		})
	}
	time.Sleep(time.Duration(20+rand.IntN(1200)) * time.Millisecond)
	pids := w.m.pids("gantryd")
	close(stop) // what fails from here on may
	w.m.kill("gantryd")
	busy.Wait()
	eventually(w.m.t, 20*time.Second, "the daemon is back", func() bool {
		now := w.m.pids("gantryd")
		return len(now) == 1 && !slices.Equal(now, pids) && w.send("GET", "/_ping", nil) == nil
	})
}

func (w *wrecker) killed(stop <-chan struct{}) bool {
	select {
	case <-stop:
		return true
	default:
		return false
	}
}

// check looks at everything that is listed.
func (w *wrecker) check() {
	t := w.m.t
	t.Helper()
	text, err := w.answer(context.Background(), "GET", "/images/json?all=1", nil)
	if err != nil {
		t.Error(err)
		return
	}
	var list []struct {
		ID       string `json:"Id"`
		RepoTags []string
	}
	if err := json.Unmarshal(text, &list); err != nil || len(list) == 0 {
		t.Errorf("%v: %s", err, text)
		return
	}
	var wg sync.WaitGroup
	for part := range slices.Chunk(list, len(list)/3+1) {
		wg.Go(func() {
			for _, img := range part {
				if err := w.runs(img.ID); err != nil {
					t.Errorf("image %s %v: %v", img.ID, img.RepoTags, err)
				}
				if err := w.whole(img.ID); err != nil {
					t.Errorf("image %s %v: %v", img.ID, img.RepoTags, err)
				}
			}
		})
	}
	wg.Wait()
	if _, err := w.answer(context.Background(), "GET", "/system/df", nil); err != nil {
		t.Error(err)
	}
	if out := w.m.ok("container", "inspect", "standing", "--format", "{{.State.Status}}"); strings.TrimSpace(out) != "running" {
		t.Errorf("the container that was being committed is %s", out)
	}
	for _, dir := range []string{filepath.Join(w.m.run, "build"), filepath.Join(w.m.root, "build", "contexts")} {
		if left, err := os.ReadDir(dir); err == nil && len(left) > 0 {
			t.Errorf("%s holds %v", dir, left)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Contains(string(mounts), w.m.run+"/build/") || strings.Contains(string(mounts), w.m.run+"/tmp/") {
		t.Errorf("build steps have left mounts: %v\n%s", err, mounts)
	}
}

// runs runs an image, which says whether its files are what they were.
func (w *wrecker) runs(id string) error {
	name := "check-" + strings.TrimPrefix(id, "sha256:")[:20]
	if err := w.container(name, id, "sh", "-c", "set -e; if [ -e /noise.md5 ]; then md5sum -c /noise.md5; fi; if [ -e /again ]; then cmp /again /noise; fi"); err != nil {
		return err
	}
	defer func() { _ = w.send("DELETE", "/containers/"+name+"?force=1", nil) }()
	if err := w.send("POST", "/containers/"+name+"/start", nil); err != nil {
		return err
	}
	text, err := w.answer(context.Background(), "POST", "/containers/"+name+"/wait", nil)
	if err != nil {
		return err
	}
	var end struct{ StatusCode int }
	if err := json.Unmarshal(text, &end); err != nil || end.StatusCode != 0 {
		log, _ := w.answer(context.Background(), "GET", "/containers/"+name+"/logs?stdout=1&stderr=1", nil)
		return fmt.Errorf("it ends with %s, %v: %s", text, err, log)
	}
	return nil
}

// whole saves an image and compares each blob with its name.
func (w *wrecker) whole(id string) error {
	text, err := w.answer(context.Background(), "GET", "/images/"+id+"/get", nil)
	if err != nil {
		return err
	}
	blobs := map[string]bool{}
	manifest := ""
	r := tar.NewReader(bytes.NewReader(text))
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("save: %w", err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("save: %w", err)
		}
		if hash, ok := strings.CutPrefix(h.Name, "blobs/sha256/"); ok && h.Typeflag == tar.TypeReg {
			if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != hash {
				return fmt.Errorf("blob %s is damaged", hash)
			}
			blobs[h.Name] = true
		}
		if h.Name == "manifest.json" {
			manifest = string(data)
		}
	}
	var list []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal([]byte(manifest), &list); err != nil || len(list) != 1 || len(list[0].Layers) == 0 {
		return fmt.Errorf("save: manifest.json is %s: %v", manifest, err)
	}
	for _, name := range append(list[0].Layers, list[0].Config) {
		if !blobs[name] {
			return fmt.Errorf("%s is not in the saved archive", name)
		}
	}
	return nil
}

// clean removes everything but busybox: the store then is a clean one, but for
// the records of builds, which go when their database cannot be read. Then a
// build fills the cache anew, and the next finds it.
func (w *wrecker) clean() {
	m := w.m
	m.t.Helper()
	m.ok("container", "rm", "-f", "standing")
	busybox := m.imageID("busybox")
	for _, id := range strings.Fields(m.ok("image", "ls", "-aq", "--no-trunc")) {
		if id != busybox {
			m.ok("image", "rm", "-f", id)
		}
	}
	m.ok("builder", "prune", "-af")
	fresh := bareMachine(m.t)
	fresh.ok("image", "import", archive(m.t, "busybox"), "busybox", "--change", `CMD ["sh"]`)
	becomes := func(what string, stored func(*machine) string) {
		m.t.Helper()
		got, want := "", stored(fresh)
		for end := time.Now().Add(5 * time.Second); got != want && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			got = stored(m) // what is removed goes in the background
		}
		if got != want {
			m.t.Errorf("%s: the store holds %s; a new one %s\n%s%s", what, got, want, m.ok("image", "ls", "-a", "--no-trunc"), m.ok("builder", "du", "--verbose"))
		}
	}
	becomes("removed", func(m *machine) string { return m.stored("snapshots/snapshots/*", "content/ingest/*") })
	m.ok("daemon", "stop")
	for _, name := range []string{"metadata_v2.db", "cache.db", "history.db"} {
		path := filepath.Join(m.root, "build", name)
		if _, err := os.Stat(path); err == nil {
			write(m.t, path, strings.Repeat("no database", 10_000))
		}
	}
	m.ok("builder", "prune", "-af") // the daemon starts, and opens the cache
	becomes("with a damaged cache", func(m *machine) string {
		return m.stored("snapshots/snapshots/*", "content/ingest/*", "content/blobs/sha256/*")
	})
	if left, _ := filepath.Glob(filepath.Join(m.root, "build", "*.bak")); len(left) > 0 {
		m.t.Errorf("left are %v", left)
	}
	context := tarOf(m.t, append(noise(), file("Dockerfile", []byte(wreckedDockerfile)))...)
	for i, cached := range []bool{false, true} {
		text, err := w.answer(m.t.Context(), "POST", "/build?t=after", context)
		if err != nil {
			m.t.Fatal(err)
		}
		if got := strings.Count(string(text), "CACHED") >= 3; got != cached {
			m.t.Errorf("build %d: cached %v\n%s", i+1, got, text)
		}
	}
	if err := errors.Join(w.runs(m.imageID("after")), w.whole(m.imageID("after"))); err != nil {
		m.t.Error(err)
	}
}

// stored counts what a machine's store holds.
func (m *machine) stored(patterns ...string) string {
	var out []string
	for _, p := range patterns {
		found, err := filepath.Glob(filepath.Join(m.root, "images", p))
		if err != nil {
			m.t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%d of %s", len(found), p))
	}
	return strings.Join(out, ", ")
}
