package image

import (
	"time"

	"github.com/distribution/reference"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is one image as it is now. It is a value: changing it changes nothing.
type Image struct {
	// ID is the digest of the configuration, "sha256:…": the id Docker shows.
	ID digest.Digest
	// Target is what the names point to, an index or a manifest; Manifest is
	// the manifest of this machine's platform in it.
	Target   digest.Digest
	Manifest digest.Digest

	// Names are familiar and sorted: "web:1", "example.org/team/web:latest". A
	// dangling image has none.
	Names []string
	// Digests name the same image by content: "web@sha256:…", sorted.
	Digests []string

	// Config is the image's own configuration: environment, command, user, ….
	Config dockerspec.DockerOCIImage
	// Platform is what the image was made for; running one of another
	// architecture is the caller's to refuse.
	Platform ocispec.Platform
	// Layers are the digests of the uncompressed layers, bottom first.
	Layers []digest.Digest
	// Size is the disk space of the unpacked layers, in bytes, as Docker counts
	// it: a layer shared with another image counts in both.
	Size int64
	// Content is the size of the manifest and all it refers to, as they came.
	Content int64
	// Documents are what Target and Manifest are the digests of.
	Documents Documents
	// Created is the time in the configuration, zero when it says none.
	Created time.Time
	// Tagged is the last time one of the names was set, or found to be current.
	Tagged time.Time

	sources map[string]string // repository → name with the digest it has in its registry
}

// Source is the name with a digest by which a registry has the image that ref
// names, "" for one that came from none and went to none.
func (i Image) Source(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ""
	}
	return i.sources[named.Name()]
}

// Documents describe the two documents that make an image.
type Documents struct {
	Target   ocispec.Descriptor
	Manifest ocispec.Descriptor
}

// ImportOptions says what an imported root file system becomes.
type ImportOptions struct {
	// Name is the image's name, "web" or "web:1"; empty leaves it dangling.
	Name string
	// Changes are instructions of a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE,
	// HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR.
	Changes []string
	// Message is the comment in the image's history.
	Message string
	// Platform is "os/arch[/variant]"; empty is this machine's.
	Platform string
	// Size is that of the archive in bytes, if it is known: what the disk has no
	// room for is refused before it is read.
	Size int64
}

// User is a container that uses an image.
type User struct {
	ID      string
	Name    string
	Running bool
}

// short is the id as people see it.
func (u User) short() string { return u.ID[:min(len(u.ID), 12)] }

// RemoveOptions are those of [Store.Remove].
type RemoveOptions struct {
	// Force removes an image that has several names or stopped containers.
	Force bool
	// InUse lists the containers of an image. Nil means that there are none.
	InUse func(id digest.Digest) []User
}

// Removed is one thing that [Store.Remove] did: a name taken away or an image
// deleted. Exactly one of the fields is set.
type Removed struct {
	Image    string // id of the image that the name or the deletion is of
	Untagged string // familiar name
	Deleted  string // id
}
