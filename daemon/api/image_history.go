package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"gantry/runtime/image"

	"github.com/containerd/platforms"
	imagetypes "github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageHistory tells how an image was made, the last step first.
func (s *server) imageHistory(ctx context.Context, w http.ResponseWriter, r *http.Request, ref string) error {
	img, err := s.imageFor(ctx, ref, r.URL.Query())
	if err != nil {
		return err
	}
	layers, err := s.Engine.ImageLayers(ctx)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, wireHistory(img, image.Unpacked(layers)[img.ID]))
}

// wireHistory lays the steps of a configuration beside the layers, of which a
// step has one unless it says that it has none. Only the last step is an
// image; what the ones before were called nobody knows.
func wireHistory(img image.Image, layers []image.Layer) []imagetypes.HistoryResponseItem {
	steps := img.Config.History
	if len(steps) == 0 {
		// A configuration need not tell: then every layer is a step.
		steps = make([]ocispec.History, len(img.Layers))
	}
	out := make([]imagetypes.HistoryResponseItem, len(steps))
	next := 0
	for i, step := range steps {
		item := imagetypes.HistoryResponseItem{ID: "<missing>", Comment: step.Comment, CreatedBy: step.CreatedBy}
		if step.Created != nil && !step.Created.IsZero() {
			item.Created = step.Created.Unix()
		}
		if !step.EmptyLayer && next < len(layers) {
			item.Size = layers[next].Size
			next++
		}
		out[len(steps)-1-i] = item
	}
	if len(out) > 0 {
		out[0].ID, out[0].Tags = img.ID.String(), img.Names
	}
	return out
}

// imageFor finds an image; a query that chooses a platform is answered if it
// is the image's.
func (s *server) imageFor(ctx context.Context, ref string, q url.Values) (image.Image, error) {
	want, err := platformOf(q)
	if err != nil {
		return image.Image{}, err
	}
	img, err := s.Engine.Image(ctx, ref)
	if err != nil || want == nil {
		return img, err
	}
	if !platforms.OnlyStrict(*want).Match(img.Platform) {
		return img, notFoundf("image with reference %s was found but does not provide the specified platform (%s)", ref, platforms.FormatAll(*want))
	}
	return img, nil
}

// platformOf reads the platform of a query, a JSON text or os/arch.
func platformOf(q url.Values) (*ocispec.Platform, error) {
	text := q.Get("platform")
	if text == "" {
		return nil, nil
	}
	var p ocispec.Platform
	if json.Unmarshal([]byte(text), &p) != nil || p.OS == "" || p.Architecture == "" {
		var err error
		if p, err = platforms.Parse(text); err != nil {
			return nil, invalid("platform: %q is neither os/arch nor JSON of a platform: %v", text, err)
		}
	}
	p = platforms.Normalize(p)
	return &p, nil
}

// imageSave sends an archive of images: the one of the path, or those in the
// query.
func (s *server) imageSave(ctx context.Context, w http.ResponseWriter, r *http.Request, refs []string) error {
	if len(refs) == 0 {
		return invalid("no image is named to be saved")
	}
	for _, ref := range refs {
		if _, err := s.imageFor(ctx, ref, r.URL.Query()); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", "application/x-tar")
	err := s.Engine.SaveImages(ctx, w, refs)
	if a, ok := w.(*answer); ok && err != nil && !a.begun {
		w.Header().Del("Content-Type")
	}
	return err
}

func (s *server) imagesSave(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	return s.imageSave(ctx, w, r, r.URL.Query()["names"])
}
