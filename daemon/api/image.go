package api

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"time"

	"gantry/runtime/image"

	imagetypes "github.com/moby/moby/api/types/image"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/opencontainers/go-digest"
)

func (s *server) imageList(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	f, err := readFilters(q, "reference", "label", "label!", "dangling", "before", "since", "until")
	if err != nil {
		return err
	}
	dangling, only, err := f.boolean("dangling")
	if err != nil {
		return err
	}
	if boolean(q, "identity") {
		return unsupported("identity in a list of images is not supported: gantry verifies no signatures")
	}
	old, err := f.until(time.Now())
	if err != nil {
		return err
	}
	all, err := s.Engine.ListImages(ctx)
	if err != nil {
		return err
	}
	var older, newer image.Image
	for key, into := range map[string]*image.Image{"before": &older, "since": &newer} {
		for _, ref := range f[key] {
			if *into, err = s.Engine.Image(ctx, ref); err != nil {
				return err
			}
		}
	}
	uses := s.imageUses()
	var shared map[digest.Digest]int64
	if boolean(q, "shared-size") {
		layers, err := s.Engine.ImageLayers(ctx)
		if err != nil {
			return err
		}
		shared = image.SizesOf(image.Unpacked(layers)).Shared
	}
	out := []imageSummary{}
	for _, img := range all {
		switch {
		case only && dangling != (len(img.Names) == 0):
		case older.ID != "" && !img.Created.Before(older.Created):
		case newer.ID != "" && !img.Created.After(newer.Created):
		case !f.labels(img.Config.Config.Labels), !old(img.Created):
		default:
			img, ok := f.named(img)
			if !ok {
				continue
			}
			line := imageSummary{Summary: wireImage(img, uses[img.ID.String()])}
			if shared != nil {
				line.SharedSize = shared[img.ID]
			}
			if before(ctx, 44) {
				line.VirtualSize = line.Size
			}
			if boolean(q, "manifests") {
				line.Manifests = s.wireManifests(img)
			}
			out = append(out, line)
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

// The name of an image may hold slashes, which net/http's patterns cannot have
// in the middle: these two take the path apart themselves.

func (s *server) imageGet(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	name, verb := lastElement(r.PathValue("path"))
	switch verb {
	case "json":
		q := r.URL.Query()
		img, err := s.imageFor(ctx, name, q)
		if err != nil {
			return err
		}
		out := imageDetails{InspectResponse: wireImageDetails(img)}
		if before(ctx, 44) {
			out.VirtualSize = img.Size
		}
		if boolean(q, "manifests") {
			out.Manifests = s.wireManifests(img)
		}
		if before(ctx, 50) {
			return writeJSON(w, http.StatusOK, wireOldImage(out))
		}
		return writeJSON(w, http.StatusOK, wireComposeImage(out))
	case "history":
		return s.imageHistory(ctx, w, r, name)
	case "get":
		return s.imageSave(ctx, w, r, []string{name})
	case "attestations":
		return unsupported("GET /images/{name}/attestations is not supported yet")
	}
	return notFound()
}

func (s *server) imagePost(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	name, verb := lastElement(r.PathValue("path"))
	switch verb {
	case "tag":
		q := r.URL.Query()
		target := q.Get("repo")
		if target == "" {
			return invalid("no repository given to tag the image with")
		}
		if tag := q.Get("tag"); tag != "" {
			target += ":" + tag
		}
		if err := s.Engine.TagImage(ctx, name, target); err != nil {
			return err
		}
		w.WriteHeader(http.StatusCreated)
		return nil
	case "push":
		return s.imagePush(ctx, w, r, name)
	}
	return notFound()
}

// lastElement parts "a/b/json" into "a/b" and "json". Without a name before it
// there is no verb.
func lastElement(path string) (name, verb string) {
	i := strings.LastIndexByte(path, '/')
	if i <= 0 {
		return "", ""
	}
	return path[:i], path[i+1:]
}

func (s *server) imageRemove(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	if len(q["platforms"]) > 0 {
		return unsupported("removing one platform of an image is not supported")
	}
	// noprune spares parents without a name. Images have no parents here.
	gone, err := s.Engine.RemoveImage(ctx, r.PathValue("path"), boolean(q, "force"))
	if err != nil {
		return err
	}
	out := []imagetypes.DeleteResponse{}
	for _, g := range gone {
		out = append(out, imagetypes.DeleteResponse{Untagged: g.Untagged, Deleted: g.Deleted})
	}
	return writeJSON(w, http.StatusOK, out)
}

// progress answers with Docker's messages. The answer begins with the first of
// them, so that an error before it still has its status; a later one is a
// message of its own.
//
// A client that sends an archive and does not listen would stop whoever reads
// it: after a minute in which it takes nothing it is cut off.
type progress struct {
	w     http.ResponseWriter
	mu    sync.Mutex // reports may come from several goroutines
	lines *jsonLines
}

const progressPatience = time.Minute

func (p *progress) begin() *jsonLines {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lines == nil {
		p.lines = beginLines(p.w, "application/json")
	}
	return p.lines
}

func (p *progress) send(m any) error {
	lines := p.begin()
	p.mu.Lock()
	defer p.mu.Unlock()
	control := http.NewResponseController(p.w)
	_ = control.SetWriteDeadline(time.Now().Add(progressPatience))
	err := lines.send(m)
	_ = control.SetWriteDeadline(time.Time{})
	return err
}

func (p *progress) end(err error) error {
	status, _ := classOf(err)
	return p.endAs(err, status)
}

// endAs is end with a code of the caller's: docker build ends with it.
func (p *progress) endAs(err error, code int) error {
	p.mu.Lock()
	begun := p.lines != nil
	p.mu.Unlock()
	if err == nil || !begun {
		return err
	}
	// The older field is what clients before 2013 read; some still look at it.
	return p.send(struct {
		jsonstream.Message
		Old string `json:"error"`
	}{jsonstream.Message{Error: &jsonstream.Error{Code: code, Message: message(err)}}, message(err)})
}

func (s *server) imageLoad(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	if r.URL.Query().Get("platform") != "" {
		return unsupported("loading one platform of an image is not supported: load it with all that the archive has")
	}
	out := &progress{w: w}
	if _, err := s.Engine.LoadImages(ctx, r.Body, func(text string) {
		_ = out.send(jsonstream.Message{Stream: text + "\n"})
	}); err != nil {
		return out.end(err)
	}
	out.begin()
	return nil
}

// imageCreate imports, when there is a source, and else pulls.
func (s *server) imageCreate(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	source := q.Get("fromSrc")
	switch {
	case q.Get("fromImage") != "":
		return s.imagePull(ctx, w, r)
	case source == "":
		return invalid("neither fromImage nor fromSrc is given")
	case source != "-":
		return unsupported("importing from an address is not supported: send the archive itself (fromSrc=-)")
	}
	name := q.Get("repo")
	if tag := q.Get("tag"); tag != "" && name != "" {
		name += ":" + tag
	}
	out := &progress{w: w}
	img, err := s.Engine.ImportImage(ctx, r.Body, image.ImportOptions{
		Name: name, Changes: q["changes"], Message: q.Get("message"), Platform: q.Get("platform"), Size: r.ContentLength,
	})
	if err != nil {
		return out.end(err)
	}
	return out.send(jsonstream.Message{Status: img.ID.String()})
}
