package image

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// A registry that does wrong is refused by name, and nothing of it stays.
func TestPullHostile(t *testing.T) {
	layer := func(t *testing.T) []byte { return makeTar(t, entry{name: "f", body: strings.Repeat("x", 5000)}) }
	blobs := func(do http.HandlerFunc) func(h *hub) {
		return func(h *hub) {
			h.bend = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
					return false
				}
				do(w, r)
				return true
			}
		}
	}
	for _, tt := range []struct {
		name, want string
		class      func(error) bool
		make       func(t *testing.T, h *hub)
		bend       func(h *hub)
	}{
		{name: "another content", want: "has the digest", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				d := h.image(t, "x:1", layer(t))
				var m ocispec.Manifest
				_ = json.Unmarshal(h.content[d.Digest], &m)
				h.content[m.Layers[0].Digest] = bytes.Repeat([]byte{7}, int(m.Layers[0].Size))
			}},
		{name: "another manifest", want: "has the digest", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				d := h.image(t, "x:1", layer(t))
				h.content[d.Digest] = bytes.Repeat([]byte(" "), int(d.Size))
			}},
		{name: "a longer layer", want: "longer than", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) { h.image(t, "x:1", noise(t, "f", 100_000)) },
			bend: func(h *hub) {
				h.bend = func(w http.ResponseWriter, r *http.Request) bool {
					d := digest.Digest(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
					if len(h.content[d]) < 50_000 {
						return false
					}
					w.Write(append(slices.Clone(h.content[d]), "more"...))
					return true
				}
			}},
		{name: "a shorter layer", want: "announced", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				m := h.manifest(t, "", layer(t))
				m.Layers[0].Size += 100
				h.tag("x:1", h.putJSON(t, m.MediaType, m))
			}},
		{name: "a layer of a size below zero", want: "has the size -5", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				m := h.manifest(t, "", layer(t))
				m.Layers[0].Size = -5
				h.tag("x:1", h.putJSON(t, m.MediaType, m))
			}},
		{name: "a layer larger than the disk", want: "free some space", class: errdefs.IsFailedPrecondition,
			make: func(t *testing.T, h *hub) {
				m := h.manifest(t, "", layer(t))
				m.Layers[0].Size = 1 << 62
				h.tag("x:1", h.putJSON(t, m.MediaType, m))
			}},
		{name: "a layer of another kind", want: "foreign", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				m := h.manifest(t, "", layer(t))
				m.Layers[0].MediaType = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
				h.tag("x:1", h.putJSON(t, m.MediaType, m))
			}},
		{name: "a layer that climbs", want: "climbs out", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				h.image(t, "x:1", makeTar(t, entry{name: "../../../etc/cron.d/evil", body: "x"}))
			}},
		{name: "another digest of the files", want: "configuration says", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				m, other := h.manifest(t, "", layer(t)), h.manifest(t, "", makeTar(t, entry{name: "g"}))
				m.Config = other.Config
				h.tag("x:1", h.putJSON(t, m.MediaType, m))
			}},
		{name: "a digest of another kind", want: "only sha256", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				m := h.manifest(t, "", layer(t))
				m.Layers[0].Digest = digest.SHA512.FromString("x")
				h.tag("x:1", h.putJSON(t, m.MediaType, m))
			}},
		{name: "no image", want: "artifact", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				m := h.manifest(t, "")
				m.Config = h.putJSON(t, "application/vnd.cncf.helm.config.v1+json", "chart")
				h.tag("x:1", h.putJSON(t, m.MediaType, m))
			}},
		{name: "the wrong media type", want: "says that its media type is", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				h.tag("x:1", h.putJSON(t, ocispec.MediaTypeImageIndex, h.manifest(t, "", layer(t))))
			}},
		{name: "a page", want: "neither an image nor an index", class: errdefs.IsInvalidArgument,
			make: func(_ *testing.T, h *hub) { h.tag("x:1", h.put("text/html", []byte("<html>"))) }},
		{name: "the oldest format", want: "schema 1", class: errdefs.IsInvalidArgument,
			make: func(_ *testing.T, h *hub) {
				h.tag("x:1", h.put(dockerSchema1Sig, []byte(`{"schemaVersion":1,"fsLayers":[]}`)))
			}},
		{name: "both at once", want: "at once", class: errdefs.IsInvalidArgument,
			make: func(_ *testing.T, h *hub) {
				h.tag("x:1", h.put(ocispec.MediaTypeImageIndex, []byte(`{"manifests":[],"layers":[]}`)))
			}},
		{name: "a huge manifest", want: "x:1", class: func(err error) bool { return errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err) },
			make: func(_ *testing.T, h *hub) {
				h.tag("x:1", h.put(ocispec.MediaTypeImageManifest, bytes.Repeat([]byte(" "), maxDocument+1)))
			}},
		{name: "an endless nest", want: "nested more than", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				d := h.putJSON(t, ocispec.MediaTypeImageManifest, h.manifest(t, "", layer(t)))
				for range 20 {
					d = h.putJSON(t, ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{d}})
				}
				h.tag("x:1", d)
			}},
		{name: "a heap of manifests", want: "documents lead", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
				for i := range 100 {
					m := h.manifest(t, otherArch())
					m.Annotations = map[string]string{"n": strconv.Itoa(i)}
					idx.Manifests = append(idx.Manifests, h.putJSON(t, ocispec.MediaTypeImageManifest, m))
				}
				h.tag("x:1", h.putJSON(t, ocispec.MediaTypeImageIndex, idx))
			}},
		{name: "a long index", want: "limit 1000", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) {
				idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: make([]ocispec.Descriptor, 2000)}
				h.tag("x:1", h.putJSON(t, ocispec.MediaTypeImageIndex, idx))
			}},
		{name: "a redirect loop", want: "redirects", class: errdefs.IsUnavailable,
			make: func(t *testing.T, h *hub) { h.image(t, "x:1", layer(t)) },
			bend: blobs(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, r.URL.Path, http.StatusTemporaryRedirect)
			})},
		{name: "busy for ever", want: "429 Too Many Requests, 6 times in a row", class: errdefs.IsUnavailable,
			make: func(t *testing.T, h *hub) { h.image(t, "x:1", layer(t)) },
			bend: blobs(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTooManyRequests) })},
		{name: "busy for an hour", want: "left alone for 1h0m0s", class: errdefs.IsUnavailable,
			make: func(t *testing.T, h *hub) { h.image(t, "x:1", layer(t)) },
			bend: blobs(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "3600")
				w.WriteHeader(http.StatusTooManyRequests)
			})},
		{name: "failing", want: "502 Bad Gateway", class: errdefs.IsUnavailable,
			make: func(t *testing.T, h *hub) { h.image(t, "x:1", layer(t)) },
			bend: blobs(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })},
		{name: "breaking off at the same byte", want: "breaks the connection: EOF, 6 times in a row", class: errdefs.IsUnavailable,
			make: func(t *testing.T, h *hub) { h.image(t, "x:1", noise(t, "f", 100_000)) },
			bend: func(h *hub) {
				h.bend = func(w http.ResponseWriter, r *http.Request) bool {
					d := digest.Digest(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
					if len(h.content[d]) < 50_000 {
						return false
					}
					if r.Header.Get("Range") != "" {
						panic(http.ErrAbortHandler)
					}
					w.Header().Set("Content-Length", strconv.Itoa(len(h.content[d])))
					w.Write(h.content[d][:40_000])
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				}
			}},
		{name: "lying ranges", want: "has the digest", class: errdefs.IsInvalidArgument,
			make: func(t *testing.T, h *hub) { h.image(t, "x:1", noise(t, "f", 100_000)) },
			bend: func(h *hub) {
				h.bend = func(w http.ResponseWriter, r *http.Request) bool {
					d := digest.Digest(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
					b := h.content[d]
					if len(b) < 50_000 {
						return false
					}
					if from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
						at, _ := strconv.Atoi(strings.TrimSuffix(from, "-"))
						w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", at, len(b)-1, len(b)))
						w.WriteHeader(http.StatusPartialContent)
						w.Write(b[:len(b)-at]) // from the start, as if it were the rest
						return true
					}
					w.Header().Set("Content-Length", strconv.Itoa(len(b)))
					w.Write(b[:40_000])
					w.(http.Flusher).Flush()
					panic(http.ErrAbortHandler)
				}
			}},
		{name: "nothing", want: "manifest unknown", class: errdefs.IsNotFound, make: func(*testing.T, *hub) {}},
		{name: "a layer that is not there", want: "blob unknown", class: errdefs.IsNotFound,
			make: func(t *testing.T, h *hub) {
				m := h.manifest(t, "", layer(t))
				delete(h.content, m.Layers[0].Digest)
				h.tag("x:1", h.putJSON(t, m.MediaType, m))
			}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, h := pullStore(t), newHub(t)
			tt.make(t, h)
			if tt.bend != nil {
				tt.bend(h)
			}
			_, err := s.Pull(t.Context(), PullOptions{Ref: h.name("x:1")})
			if err == nil || !strings.Contains(err.Error(), tt.want) || !tt.class(err) {
				t.Fatalf("got %v (%T), want one that says %q", err, err, tt.want)
			}
			if all, err := s.List(t.Context()); err != nil || len(all) != 0 {
				t.Errorf("listed after it: %v %v", all, err)
			}
			mustBeClean(t, s)
		})
	}
}
