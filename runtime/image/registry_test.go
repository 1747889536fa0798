package image

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// hub is a registry in this process. bend, if set, may answer a request in the
// place of the registry, and reports whether it did.
type hub struct {
	*httptest.Server
	bend func(w http.ResponseWriter, r *http.Request) bool

	apart bool // repositories share no blobs

	mu       sync.Mutex
	content  map[digest.Digest][]byte
	kinds    map[digest.Digest]string
	tags     map[string]digest.Digest // "team/web:1"
	repos    map[string]map[digest.Digest]bool
	requests []string
}

func newHub(t testing.TB) *hub {
	t.Helper()
	h := openHub()
	t.Cleanup(h.Close)
	return h
}

func openHub() *hub {
	h := &hub{content: map[digest.Digest][]byte{}, kinds: map[digest.Digest]string{}, tags: map[string]digest.Digest{}, repos: map[string]map[digest.Digest]bool{}}
	h.Server = httptest.NewServer(h)
	return h
}

// name is a reference into the registry.
func (h *hub) name(ref string) string { return h.Listener.Addr().String() + "/" + ref }

// asked lists the requests so far, and forgets them.
func (h *hub) asked() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.requests
	h.requests = nil
	return out
}

func (h *hub) put(kind string, b []byte) ocispec.Descriptor {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := digest.FromBytes(b)
	h.content[d], h.kinds[d] = b, kind
	return ocispec.Descriptor{MediaType: kind, Digest: d, Size: int64(len(b))}
}

func (h *hub) putJSON(t testing.TB, kind string, v any) ocispec.Descriptor {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return h.put(kind, b)
}

func (h *hub) tag(ref string, d ocispec.Descriptor) ocispec.Descriptor {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tags[ref] = d.Digest
	return d
}

// manifest is an image of layers for a platform, "" being this machine's.
func (h *hub) manifest(t testing.TB, arch string, layers ...[]byte) ocispec.Manifest {
	t.Helper()
	var c dockerspec.DockerOCIImage
	c.Platform = ocispec.Platform{OS: "linux", Architecture: runtime.GOARCH}
	if arch != "" {
		c.Architecture = arch
	}
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	for _, l := range layers {
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(l))
		m.Layers = append(m.Layers, h.put(ocispec.MediaTypeImageLayerGzip, gz(l)))
	}
	m.Config = h.putJSON(t, ocispec.MediaTypeImageConfig, c)
	return m
}

// image tags an image of layers.
func (h *hub) image(t testing.TB, ref string, layers ...[]byte) ocispec.Descriptor {
	t.Helper()
	return h.tag(ref, h.putJSON(t, ocispec.MediaTypeImageManifest, h.manifest(t, "", layers...)))
}

func (h *hub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.requests = append(h.requests, r.Method+" "+r.URL.Path)
	h.mu.Unlock()
	if h.bend != nil && h.bend(w, r) {
		return
	}
	path := strings.TrimPrefix(r.URL.Path, "/v2/")
	for _, verb := range []string{"manifests", "blobs"} {
		repo, ref, ok := strings.Cut(path, "/"+verb+"/")
		if !ok {
			continue
		}
		switch {
		case verb == "blobs" && strings.HasPrefix(ref, "uploads"):
			h.upload(w, r, repo)
		case r.Method == http.MethodPut:
			b, _ := io.ReadAll(r.Body)
			d := h.put(r.Header.Get("Content-Type"), b)
			if !strings.HasPrefix(ref, "sha256:") {
				h.tag(repo+":"+ref, d)
			}
			w.Header().Set("Docker-Content-Digest", d.Digest.String())
			w.WriteHeader(http.StatusCreated)
		default:
			h.serve(w, r, repo, verb, ref)
		}
		return
	}
	if repo, ok := strings.CutSuffix(path, "/tags/list"); ok {
		h.list(w, r, repo)
		return
	}
	if path != "" {
		http.NotFound(w, r)
	}
}

func (h *hub) serve(w http.ResponseWriter, r *http.Request, repo, verb, ref string) {
	h.mu.Lock()
	d, ok := h.tags[repo+":"+ref]
	if !ok {
		d = digest.Digest(ref)
	}
	b, ok := h.content[d]
	kind := h.kinds[d]
	if h.apart && verb == "blobs" {
		ok = ok && h.repos[repo][d]
	}
	h.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	if verb == "blobs" {
		kind = "application/octet-stream"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Docker-Content-Digest", d.String())
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
}

// upload takes blobs; one that is in another repository may be mounted from it.
func (h *hub) upload(w http.ResponseWriter, r *http.Request, repo string) {
	h.mu.Lock()
	if h.repos[repo] == nil {
		h.repos[repo] = map[digest.Digest]bool{}
	}
	pushed := h.repos[repo]
	h.mu.Unlock()
	q := r.URL.Query()
	switch r.Method {
	case http.MethodPost:
		if d := digest.Digest(q.Get("mount")); d != "" {
			h.mu.Lock()
			_, ok := h.content[d]
			pushed[d] = ok
			h.mu.Unlock()
			if ok {
				w.WriteHeader(http.StatusCreated)
				return
			}
		}
		w.Header().Set("Location", "/v2/"+repo+"/blobs/uploads/"+rand.Text())
		w.WriteHeader(http.StatusAccepted)
	case http.MethodPut:
		b, err := io.ReadAll(r.Body)
		if err != nil || digest.FromBytes(b) != digest.Digest(q.Get("digest")) {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		d := h.put("", b)
		h.mu.Lock()
		pushed[d.Digest] = true
		h.mu.Unlock()
		w.WriteHeader(http.StatusCreated)
	}
}

// list gives two tags a page.
func (h *hub) list(w http.ResponseWriter, r *http.Request, repo string) {
	h.mu.Lock()
	var tags []string
	for name := range h.tags {
		if tag, ok := strings.CutPrefix(name, repo+":"); ok {
			tags = append(tags, tag)
		}
	}
	h.mu.Unlock()
	slices.Sort(tags)
	at, _ := strconv.Atoi(r.URL.Query().Get("last"))
	end := min(at+2, len(tags))
	if end < len(tags) {
		w.Header().Set("Link", fmt.Sprintf(`<%s?last=%d>; rel="next"`, r.URL.Path, end))
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"name": repo, "tags": tags[at:end]})
}

// pullStore is a store that does not wait long for a registry.
func pullStore(t testing.TB) *Store {
	t.Helper()
	s := newStore(t)
	s.pause = time.Millisecond
	return s
}

func mustPull(t testing.TB, s *Store, ref string) Pulled {
	t.Helper()
	p, err := s.Pull(t.Context(), PullOptions{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func hostArch() string { return runtime.GOARCH }
