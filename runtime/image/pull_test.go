package image

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// noise is a layer that does not pack.
func noise(t testing.TB, name string, size int) []byte {
	t.Helper()
	b := make([]byte, size)
	rand.New(rand.NewSource(int64(len(name)))).Read(b)
	return makeTar(t, entry{name: name, body: string(b)})
}

func TestPull(t *testing.T) {
	s, h := pullStore(t), newHub(t)
	base, top := makeTar(t, entry{name: "etc/", mode: 0o700}, entry{name: "etc/a", body: "below"}), makeTar(t, entry{name: "etc/b", body: "above"})
	desc := h.image(t, "team/web:1", base, top, top)

	var mu sync.Mutex
	steps := map[digest.Digest][]Step{}
	p, err := s.Pull(t.Context(), PullOptions{Ref: h.name("team/web:1"), Report: func(p Progress) {
		mu.Lock()
		defer mu.Unlock()
		steps[p.Layer] = append(steps[p.Layer], p.Step)
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !p.Fresh || p.Digest != desc.Digest || p.Name != h.name("team/web:1") || !slices.Equal(p.Image.Names, []string{p.Name}) ||
		!slices.Equal(p.Image.Digests, []string{h.name("team/web@" + desc.Digest.String())}) {
		t.Errorf("%+v", p)
	}
	dirs, err := s.Lowers(t.Context(), p.Image.ID)
	if err != nil || len(dirs) != 3 || len(tree(t, dirs[2])) != 2 {
		t.Fatalf("%v %v", dirs, err)
	}
	if len(steps) != 2 {
		t.Errorf("two layers are told of as %d", len(steps))
	}
	for l, told := range steps {
		if told[0] != Waiting || told[len(told)-1] != Complete || !slices.Contains(told, Downloading) || !slices.Contains(told, Extracting) {
			t.Errorf("layer %s: %v", l, told)
		}
	}
	if err := s.Release(t.Context(), p.Image.ID); err != nil {
		t.Fatal(err)
	}

	// Once more: one request and nothing else.
	h.asked()
	began := time.Now()
	p = mustPull(t, s, h.name("team/web:1"))
	if asked := h.asked(); p.Fresh || !slices.Equal(asked, []string{"HEAD /v2/team/web/manifests/1"}) {
		t.Errorf("pulled again: %v %v", p.Fresh, asked)
	}
	if took := time.Since(began); took > 500*time.Millisecond {
		t.Errorf("it took %s", took)
	}
	mustBeClean(t, s)

	// By digest, the layers being here.
	byDigest := h.name("team/web@" + desc.Digest.String())
	p = mustPull(t, s, byDigest)
	if p.Image.Digests[0] != byDigest {
		t.Errorf("%+v", p.Image)
	}
	// The name moves on, and the image before it stays.
	h.image(t, "team/web:1", base)
	if p = mustPull(t, s, h.name("team/web:1")); !p.Fresh || len(p.Image.Layers) != 1 {
		t.Errorf("moved on: %+v", p)
	}
	if img, err := s.Get(t.Context(), byDigest); err != nil || len(img.Layers) != 3 || len(img.Names) != 0 {
		t.Errorf("by digest: %+v %v", img, err)
	}
	mustBeClean(t, s)
}

// index tags an index of images by platform, "" being this machine's.
func (h *hub) index(t testing.TB, ref string, archs ...string) ocispec.Descriptor {
	t.Helper()
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, arch := range archs {
		d := h.putJSON(t, ocispec.MediaTypeImageManifest, h.manifest(t, arch, makeTar(t, entry{name: "arch", body: arch})))
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		idx.Manifests = append(idx.Manifests, d)
	}
	return h.tag(ref, h.putJSON(t, ocispec.MediaTypeImageIndex, idx))
}

func TestPullChoosesPlatform(t *testing.T) {
	s, h := pullStore(t), newHub(t)
	here, there := hostArch(), otherArch()
	desc := h.index(t, "multi:1", there, here)
	p := mustPull(t, s, h.name("multi:1"))
	if p.Image.Platform.Architecture != here || p.Image.Target != desc.Digest || p.Digest != desc.Digest {
		t.Errorf("%+v", p)
	}
	other, err := s.Pull(t.Context(), PullOptions{Ref: h.name("multi:1"), Platform: "linux/" + there})
	if err != nil || other.Image.Platform.Architecture != there || !other.Fresh {
		t.Fatalf("%+v %v", other, err)
	}
	if want := h.name("multi@" + desc.Digest.String()); !slices.Contains(other.Image.Digests, want) {
		t.Errorf("digests %v, want %s", other.Image.Digests, want)
	}
	if again, err := s.Pull(t.Context(), PullOptions{Ref: h.name("multi:1"), Platform: "linux/" + there}); err != nil || again.Fresh {
		t.Errorf("again: %+v %v", again, err)
	}
	if back := mustPull(t, s, h.name("multi:1")); back.Image.Platform.Architecture != here {
		t.Errorf("back: %+v", back.Image.Platform)
	}
	_, err = s.Pull(t.Context(), PullOptions{Ref: h.name("multi:1"), Platform: "linux/s390x"})
	if !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), there) {
		t.Errorf("a platform that it has not: %v", err)
	}
	if _, err = s.Pull(t.Context(), PullOptions{Ref: h.name("multi:1"), Platform: "no/such/thing/at/all"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no platform: %v", err)
	}
	mustBeClean(t, s)
}

// A transfer that breaks off is gone on with from where it was.
func TestPullGoesOn(t *testing.T) {
	s, h := pullStore(t), newHub(t)
	h.image(t, "x:1", noise(t, "big", 2<<20), noise(t, "second", 1<<20))
	var sent, ranges atomic.Int64
	h.bend = func(w http.ResponseWriter, r *http.Request) bool {
		d := digest.Digest(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
		b := h.content[d]
		if len(b) < 500_000 || r.Method != http.MethodGet {
			return false
		}
		at := 0
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		if from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
			ranges.Add(1)
			at, _ = strconv.Atoi(strings.TrimSuffix(from, "-"))
			w.Header().Set("Content-Length", strconv.Itoa(len(b)-at))
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(b)-1, len(b)))
			w.WriteHeader(http.StatusPartialContent)
		}
		end := min(at+300_000, len(b))
		sent.Add(int64(end - at))
		w.Write(b[at:end])
		if end < len(b) {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		return true
	}
	p := mustPull(t, s, h.name("x:1"))
	if len(p.Image.Layers) != 2 {
		t.Errorf("%+v", p.Image)
	}
	if n := ranges.Load(); n < 5 {
		t.Errorf("only %d ranges were asked for", n)
	}
	// What was in flight when it broke may be sent twice, no more.
	if total := sent.Load(); total > 4<<20 {
		t.Errorf("%d bytes were sent for 3 MiB", total)
	}
	mustBeClean(t, s)
}

// A registry that is busy for a moment is asked again.
func TestPullWaits(t *testing.T) {
	s, h := pullStore(t), newHub(t)
	h.image(t, "x:1", makeTar(t, entry{name: "f"}))
	var mu sync.Mutex
	asked := map[string]int{}
	h.bend = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		asked[r.URL.Path]++
		switch asked[r.URL.Path] {
		case 1:
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			w.WriteHeader(http.StatusServiceUnavailable)
		case 3:
			panic(http.ErrAbortHandler)
		default:
			return false
		}
		return true
	}
	mustPull(t, s, h.name("x:1"))
	mustBeClean(t, s)
}

// Two pulls of images that share a layer fetch it once.
func TestPullsShareLayers(t *testing.T) {
	s, h := pullStore(t), newHub(t)
	base := noise(t, "base", 1<<20)
	a := h.image(t, "a:1", base, makeTar(t, entry{name: "a"}))
	h.image(t, "b:1", base, makeTar(t, entry{name: "b"}))
	var m ocispec.Manifest
	if err := json.Unmarshal(h.content[a.Digest], &m); err != nil {
		t.Fatal(err)
	}
	shared := m.Layers[0].Digest.String()
	h.bend = func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, shared) {
			time.Sleep(50 * time.Millisecond)
		}
		return false
	}
	var work sync.WaitGroup
	for _, ref := range []string{"a:1", "b:1", "a:1"} {
		work.Go(func() {
			if _, err := s.Pull(t.Context(), PullOptions{Ref: h.name(ref)}); err != nil {
				t.Errorf("%s: %v", ref, err)
			}
		})
	}
	work.Wait()
	n := 0
	for _, line := range h.asked() {
		if strings.HasSuffix(line, shared) {
			n++
		}
	}
	if n != 1 {
		t.Errorf("the shared layer was asked for %d times", n)
	}
	mustBeClean(t, s)
}

func TestPullCancelled(t *testing.T) {
	s, h := pullStore(t), newHub(t)
	h.image(t, "x:1", noise(t, "big", 1<<20))
	ctx, cancel := context.WithCancel(t.Context())
	h.bend = func(w http.ResponseWriter, r *http.Request) bool {
		d := digest.Digest(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
		b := h.content[d]
		if len(b) < 500_000 {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		w.Write(b[:100_000])
		w.(http.Flusher).Flush()
		cancel()
		<-r.Context().Done()
		return true
	}
	if _, err := s.Pull(ctx, PullOptions{Ref: h.name("x:1")}); err == nil || ctx.Err() == nil {
		t.Fatalf("%v", err)
	}
	h.bend = nil
	mustPull(t, s, h.name("x:1")) // and nothing stands in its way
	mustBeClean(t, s)
}

func TestRemoteTags(t *testing.T) {
	s, h := pullStore(t), newHub(t)
	for i := range 5 {
		h.image(t, fmt.Sprintf("web:%d", i), makeTar(t, entry{name: "f"}))
	}
	tags, err := s.RemoteTags(t.Context(), h.name("web"), Credentials{})
	if err != nil || !slices.Equal(tags, []string{"0", "1", "2", "3", "4"}) {
		t.Errorf("%v %v", tags, err)
	}
	h.bend = func(w http.ResponseWriter, _ *http.Request) bool {
		w.Header().Set("Link", `<?last=0>; rel="next"`)
		fmt.Fprint(w, `{"tags":["again"]}`)
		return true
	}
	if _, err := s.RemoteTags(t.Context(), h.name("web"), Credentials{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an endless list: %v", err)
	}
}

func TestHostsFile(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct{ name, text, want string }{
		{"good", "server = \"https://a.example\"\n[host.\"http://mirror:5000\"]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"3s\"\n  [host.\"http://mirror:5000\".header]\n    x = \"y\"\n", ""},
		{"misspelled", "sever = \"https://a.example\"\n", `no setting "sever"`},
		{"misspelled in a host", "[host.\"http://m\"]\n capability = [\"pull\"]\n", "capability"},
		{"no such capability", "[host.\"http://m\"]\n capabilities = [\"pul\"]\n", `"pul"`},
		{"no TOML", "server = \n", "hosts.toml"},
		{"no time", "dial_timeout = \"soon\"\n", "dial_timeout"},
		{"no address", "server = \"ftp://a.example\"\n", "ftp://a.example"},
	} {
		path := filepath.Join(dir, "hosts.toml")
		if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := checkHostsFile(path)
		if (err == nil) != (tt.want == "") || err != nil && (!strings.Contains(err.Error(), tt.want) || !errdefs.IsFailedPrecondition(err)) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.want)
		}
	}
	if err := checkHostsFile(filepath.Join(dir, "none")); err != nil {
		t.Error(err)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]time.Duration{
		"": 0, "7": 7 * time.Second, "-3": 0, "soon": 0, "99999999999": 0,
		"Fri, 02 Jan 2026 03:05:05 GMT": time.Minute, "Thu, 01 Jan 2026 03:05:05 GMT": 0,
		"9999999": 24 * time.Hour,
	} {
		if got := retryAfter(text, now); got != want && !(text == "99999999999" && got == 24*time.Hour) {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

// Whatever prints credentials prints none of them.
func TestCredentialsStayHidden(t *testing.T) {
	c := Credentials{Username: "anna", Password: "hunter2", IdentityToken: "idtok", RegistryToken: "regtok"}
	for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %s", c, c, c, c), fmt.Sprintf("%+v", PullOptions{Credentials: c}), c.LogValue().String()} {
		for _, secret := range []string{"anna", "hunter2", "idtok", "regtok"} {
			if strings.Contains(text, secret) {
				t.Errorf("%q shows %q", text, secret)
			}
		}
	}
}

// A disk that fills up although the sizes announced had room: a clear error,
// and when there is room again, another try.
func TestPullFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts a small file system")
	}
	root := t.TempDir()
	if err := unix.Mount("tmpfs", root, "tmpfs", 0, "size=26m"); err != nil {
		t.Skipf("cannot mount a small file system: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s, h := openStore(t, root), newHub(t)
	ballast := filepath.Join(root, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 8<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	h.image(t, "x:1", makeTar(t, entry{name: "zeros", body: strings.Repeat("\x00", 20<<20)}))
	_, err := s.Pull(t.Context(), PullOptions{Ref: h.name("x:1")})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "full") {
		t.Errorf("%v", err)
	}
	mustBeClean(t, s)
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	mustPull(t, s, h.name("x:1"))
	mustBeClean(t, s)
}

// What no registry can have is refused before one is asked.
func TestPullOfWhatIsNoName(t *testing.T) {
	for ref, want := range map[string]string{
		"scratch":                           "scratch is no image",
		"scratch:latest":                    "scratch is no image",
		"sha256:" + strings.Repeat("a", 64): "is the id of an image",
		"":                                  "cannot be empty",
		"Web":                               "lowercase",
	} {
		if _, err := parsePull(ref); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", ref, err, want)
		}
	}
	for _, ref := range []string{"web", "sha256", "sha256:1", "example.com/scratch"} {
		if _, err := parsePull(ref); err != nil {
			t.Errorf("%q: %v", ref, err)
		}
	}
}
