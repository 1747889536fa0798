package api

import (
	"path"
	"slices"
	"strings"
	"time"

	"gantry/runtime/image"

	imagetypes "github.com/moby/moby/api/types/image"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageSummary and imageDetails are what clients before API 1.44 read too:
// there the size was given twice.
type imageSummary struct {
	imagetypes.Summary
	VirtualSize int64 `json:",omitempty"`
}

type imageDetails struct {
	imagetypes.InspectResponse
	VirtualSize int64 `json:",omitempty"`
}

func wireImage(img image.Image, containers int64) imagetypes.Summary {
	created := int64(0)
	if !img.Created.IsZero() {
		created = img.Created.Unix()
	}
	return imagetypes.Summary{
		Containers: containers, Created: created, ID: img.ID.String(),
		Labels:      img.Config.Config.Labels,
		RepoDigests: orNone(img.Digests), RepoTags: orNone(img.Names),
		SharedSize: -1, Size: img.Size, Descriptor: described(img.Documents.Target),
	}
}

func wireImageDetails(img image.Image) imagetypes.InspectResponse {
	config := img.Config.Config
	out := imagetypes.InspectResponse{
		ID: img.ID.String(), RepoTags: orNone(img.Names), RepoDigests: orNone(img.Digests),
		Author: img.Config.Author, Config: &config,
		Architecture: img.Platform.Architecture, Variant: img.Platform.Variant, Os: img.Platform.OS, OsVersion: img.Platform.OSVersion,
		Size:       img.Size,
		RootFS:     imagetypes.RootFS{Type: "layers"},
		Descriptor: described(img.Documents.Target),
		Metadata:   imagetypes.Metadata{LastTagTime: img.Tagged},
	}
	if !img.Created.IsZero() {
		out.Created = img.Created.UTC().Format(time.RFC3339Nano)
	}
	if n := len(img.Config.History); n > 0 {
		out.Comment = img.Config.History[n-1].Comment
	}
	for _, l := range img.Layers {
		out.RootFS.Layers = append(out.RootFS.Layers, l.String())
	}
	return out
}

// named keeps those names of an image that one of the filters asks for, and
// tells whether the image passes.
func (f filters) named(img image.Image) (image.Image, bool) {
	if len(f["reference"]) == 0 {
		return img, true
	}
	other := func(name string) bool {
		return !f.any("reference", func(pattern string) bool { return referenceMatches(pattern, name) })
	}
	img.Names = slices.DeleteFunc(slices.Clone(img.Names), other)
	img.Digests = slices.DeleteFunc(slices.Clone(img.Digests), other)
	return img, len(img.Names)+len(img.Digests) > 0
}

// referenceMatches takes a filter for what it is in Docker: a pattern for a
// name with or without its tag, where * does not reach over a slash.
func referenceMatches(pattern, name string) bool {
	bare, _, _ := strings.Cut(name, "@")
	if i := strings.LastIndexByte(bare, ':'); i > strings.LastIndexByte(bare, '/') {
		bare = bare[:i]
	}
	for _, form := range []string{name, bare} {
		if ok, err := path.Match(pattern, form); err == nil && ok {
			return true
		}
	}
	return false
}

// described is a document's descriptor, nil where none is known.
func described(d ocispec.Descriptor) *ocispec.Descriptor {
	if d.Digest == "" {
		return nil
	}
	return &d
}

// wireManifests lists what can be run of an image: that of this machine's
// platform.
func (s *server) wireManifests(img image.Image) []imagetypes.ManifestSummary {
	m := imagetypes.ManifestSummary{
		ID: img.Manifest.String(), Descriptor: img.Documents.Manifest, Available: true, Kind: imagetypes.ManifestKindImage,
		ImageData: &imagetypes.ImageProperties{Platform: img.Platform, Containers: []string{}},
	}
	m.Size.Content, m.Size.Total = img.Content, img.Content+img.Size
	m.ImageData.Size.Unpacked = img.Size
	for _, c := range s.Engine.List() {
		if c.Config.ImageID == img.ID.String() {
			m.ImageData.Containers = append(m.ImageData.Containers, c.ID)
		}
	}
	return []imagetypes.ManifestSummary{m}
}
