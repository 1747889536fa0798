package image

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// What is pushed from one store and pulled into another is the same.
func TestPushAndPull(t *testing.T) {
	s, h := pullStore(t), newHub(t)
	h.apart = true
	img := mustImport(t, s, h.name("team/web:1"), entry{name: "etc/", mode: 0o750}, entry{name: "etc/f", body: "hello", uid: 7})
	var mu sync.Mutex
	var steps []Step
	push := func(ref string) Pushed {
		t.Helper()
		steps = nil
		p, err := s.Push(t.Context(), PushOptions{Ref: h.name(ref), Report: func(p Progress) {
			mu.Lock()
			defer mu.Unlock()
			steps = append(steps, p.Step)
		}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := push("team/web:1")
	if p.Tag != "1" || p.Digest != img.Target || p.Size != img.Documents.Target.Size || !slices.Contains(steps, Sent) {
		t.Errorf("%+v %v", p, steps)
	}
	got, err := s.Get(t.Context(), h.name("team/web:1"))
	if want := h.name("team/web@" + img.Target.String()); err != nil || got.Source(h.name("team/web:1")) != want {
		t.Errorf("source %q %v, want %q", got.Source(h.name("team/web:1")), err, want)
	}

	other := pullStore(t)
	q := mustPull(t, other, h.name("team/web:1"))
	if q.Image.ID != img.ID || q.Digest != img.Target || !slices.Equal(q.Image.Layers, img.Layers) {
		t.Errorf("pulled %+v\npushed %+v", q.Image, img)
	}
	a, errA := s.Lowers(t.Context(), img.ID)
	b, errB := other.Lowers(t.Context(), img.ID)
	if errA != nil || errB != nil || !slices.Equal(tree(t, a[0]), tree(t, b[0])) {
		t.Errorf("files: %v %v", errA, errB)
	}

	// Once more: nothing is sent.
	h.asked()
	push("team/web:1")
	for _, line := range h.asked() {
		if !strings.HasPrefix(line, "HEAD ") {
			t.Errorf("pushed again: %s", line)
		}
	}
	if !slices.Contains(steps, Exists) {
		t.Errorf("%v", steps)
	}
	// To another repository of the registry: mounted from the first.
	if err := s.Tag(t.Context(), h.name("team/web:1"), h.name("team/copy:2")); err != nil {
		t.Fatal(err)
	}
	push("team/copy:2")
	if !slices.Contains(steps, Mounted) || slices.Contains(steps, Sent) {
		t.Errorf("%v", steps)
	}
}

func TestPushRefuses(t *testing.T) {
	s, h := pullStore(t), newHub(t)
	if _, err := s.Push(t.Context(), PushOptions{Ref: h.name("none:1")}); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "none:1") {
		t.Errorf("one that is not here: %v", err)
	}
	if _, err := s.Push(t.Context(), PushOptions{Ref: h.name("x@sha256:" + strings.Repeat("a", 64))}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a digest: %v", err)
	}
	img := mustImport(t, s, h.name("half:1"), entry{name: "f", body: "x"})
	ctx := s.context(t.Context())
	res, err := s.byID(ctx, img.ID)
	if err != nil {
		t.Fatal(err)
	}
	layer := res.manifest.Layers[0].Digest
	if err := s.content.Delete(ctx, layer); err != nil {
		t.Fatal(err)
	}
	h.asked()
	_, err = s.Push(t.Context(), PushOptions{Ref: h.name("half:1")})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), layer.String()) {
		t.Errorf("half an image: %v", err)
	}
	if asked := h.asked(); len(asked) > 0 {
		t.Errorf("and something was sent: %v", asked)
	}
}

// Of an index that is not here as a whole this machine's image is pushed; a
// whole one goes as it is.
func TestPushIndex(t *testing.T) {
	s, h := pullStore(t), newHub(t)
	desc := h.index(t, "multi:1", otherArch(), hostArch())
	p := mustPull(t, s, h.name("multi:1"))
	if err := s.Tag(t.Context(), h.name("multi:1"), h.name("mine:1")); err != nil {
		t.Fatal(err)
	}
	q, err := s.Push(t.Context(), PushOptions{Ref: h.name("mine:1")})
	if err != nil || q.Left != desc.Digest || q.Digest != p.Image.Manifest {
		t.Errorf("%+v %v", q, err)
	}
	a := &archiveMaker{t: t}
	one, two := a.image("amd64", gz, "application/vnd.oci.image.layer.v1.tar+gzip", makeTar(t, entry{name: "a"})),
		a.image("arm64", gz, "application/vnd.oci.image.layer.v1.tar+gzip", makeTar(t, entry{name: "b"}))
	both := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{one, two}}
	both.SchemaVersion = 2
	index := a.blob(both.MediaType, a.json(both))
	mustLoad(t, s, a.layout(named(index, h.name("whole:1"))))
	q, err = s.Push(t.Context(), PushOptions{Ref: h.name("whole:1")})
	if err != nil || q.Left != "" || q.Digest != index.Digest {
		t.Errorf("%+v %v", q, err)
	}
}

// An upload that breaks off is made again.
func TestPushGoesOn(t *testing.T) {
	s, h := pullStore(t), newHub(t)
	img := mustImport(t, s, h.name("x:1"), entry{name: "f", body: strings.Repeat("some text\n", 100_000)})
	var mu sync.Mutex
	broken := 0
	h.bend = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/uploads/") || broken >= 3 {
			return false
		}
		broken++
		if broken == 2 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		_, _ = io.CopyN(io.Discard, r.Body, 1000)
		panic(http.ErrAbortHandler)
	}
	if _, err := s.Push(t.Context(), PushOptions{Ref: h.name("x:1")}); err != nil {
		t.Fatal(err)
	}
	if broken != 3 {
		t.Errorf("broke %d times", broken)
	}
	if got := mustPull(t, pullStore(t), h.name("x:1")); got.Image.ID != img.ID {
		t.Errorf("%+v", got)
	}
}

// Credentials are shown to the registry they are for, and to nobody else.
func TestCredentials(t *testing.T) {
	s, h := pullStore(t), newHub(t)
	h.image(t, "x:1", makeTar(t, entry{name: "f"}))
	var mu sync.Mutex
	var strangers []string
	stranger := newHub(t)
	stranger.content, stranger.kinds = h.content, h.kinds
	stranger.bend = func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		strangers = append(strangers, r.Header.Get("Authorization"))
		return false
	}
	const want = "Bearer opened"
	issued := 0
	h.bend = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/token" {
			_ = r.ParseForm()
			user, pass, _ := r.BasicAuth()
			if r.Method == http.MethodPost {
				user, pass = r.Form.Get("username"), r.Form.Get("password")
			}
			if !(user == "anna" && pass == "hunter2") && r.Form.Get("refresh_token") != "identity" {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			mu.Lock()
			issued++
			mu.Unlock()
			_ = json.NewEncoder(w).Encode(map[string]string{"token": "opened", "access_token": "opened", "refresh_token": "identity"})
			return true
		}
		if r.Header.Get("Authorization") != want {
			w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="hub",scope="repository:x:pull"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") && r.Method == http.MethodGet {
			http.Redirect(w, r, stranger.URL+r.URL.Path+"?signature=secret", http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	for _, tt := range []struct {
		c  Credentials
		ok bool
	}{
		{Credentials{Username: "anna", Password: "hunter2"}, true},
		{Credentials{IdentityToken: "identity"}, true},
		{Credentials{RegistryToken: "opened"}, true},
		{Credentials{Username: "anna", Password: "wrong"}, false},
		{Credentials{RegistryToken: "shut"}, false},
		{Credentials{}, false},
	} {
		s := pullStore(t)
		_, err := s.Pull(t.Context(), PullOptions{Ref: h.name("x:1"), Credentials: tt.c})
		if (err == nil) != tt.ok {
			t.Errorf("%#v: %v", tt.c, err)
		}
		if err != nil && (!errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "gantry login "+h.Listener.Addr().String())) {
			t.Errorf("refused as %v", err)
		}
		for _, secret := range []string{"hunter2", "wrong", "shut", "identity"} {
			if err != nil && strings.Contains(err.Error(), secret) {
				t.Errorf("%q is in %q", secret, err)
			}
		}
	}
	for _, a := range strangers {
		if a != "" {
			t.Errorf("a stranger was shown %q", a)
		}
	}
	if len(strangers) == 0 || issued == 0 {
		t.Errorf("%d tokens, %d requests to the other host", issued, len(strangers))
	}
	identity, err := s.Login(t.Context(), h.Listener.Addr().String(), Credentials{Username: "anna", Password: "hunter2"})
	if err != nil || identity != "identity" {
		t.Errorf("login: %q %v", identity, err)
	}
	if _, err := s.Login(t.Context(), h.Listener.Addr().String(), Credentials{Username: "anna", Password: "nope"}); !errdefs.IsUnauthorized(err) || strings.Contains(err.Error(), "nope") {
		t.Errorf("login with a wrong password: %v", err)
	}
	// An error of the other host does not show the signature in its address.
	stranger.bend = func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
	_, err = pullStore(t).Pull(t.Context(), PullOptions{Ref: h.name("x:1"), Credentials: Credentials{RegistryToken: "opened"}})
	if err == nil || strings.Contains(err.Error(), "signature") {
		t.Errorf("%v", err)
	}
}

// A mirror is asked first, without credentials, and the registry itself where
// the mirror fails.
func TestMirror(t *testing.T) {
	h, mirror := newHub(t), newHub(t)
	h.image(t, "x:1", makeTar(t, entry{name: "f"}))
	mirror.content, mirror.kinds, mirror.tags = h.content, h.kinds, h.tags
	var mu sync.Mutex
	shown := ""
	mirror.bend = func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		shown += r.Header.Get("Authorization")
		if strings.Contains(r.URL.Path, "/blobs/") {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		return false
	}
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("anna:hunter2"))
	h.bend = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Authorization") == basic {
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	s := pullStore(t)
	s.registries = t.TempDir()
	dir := filepath.Join(s.registries, "registry.test")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	text := "server = \"" + h.URL + "\"\n[host.\"" + mirror.URL + "\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p, err := s.Pull(t.Context(), PullOptions{Ref: "registry.test/x:1", Credentials: Credentials{Username: "anna", Password: "hunter2"}})
	if err != nil || p.Name != "registry.test/x:1" {
		t.Fatalf("%+v %v", p, err)
	}
	if shown != "" {
		t.Errorf("the mirror was shown %q", shown)
	}
	if !slices.ContainsFunc(mirror.asked(), func(s string) bool { return strings.HasPrefix(s, "HEAD ") }) ||
		!slices.ContainsFunc(h.asked(), func(s string) bool { return strings.Contains(s, "/blobs/") }) {
		t.Error("both were to be asked")
	}
	if err := os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte("sevrer = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Pull(t.Context(), PullOptions{Ref: "registry.test/x:1"}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "hosts.toml") {
		t.Errorf("a file that is wrong: %v", err)
	}
}
