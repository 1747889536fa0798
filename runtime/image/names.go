package image

import (
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// danglingPrefix begins the record of an image without a name; the target's
// digest follows. No reference begins like this.
const danglingPrefix = "<none>@"

func danglingName(target digest.Digest) string { return danglingPrefix + target.String() }

// parseTag reads the name an image is to get: a name, with a tag or for
// ":latest".
func parseTag(name string) (reference.NamedTagged, error) {
	ref, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return nil, badName(name, err)
	}
	if _, ok := ref.(reference.Digested); ok {
		return nil, classed(errdefs.ErrInvalidArgument, "image name %q: a digest follows from the content and cannot be given", name)
	}
	return reference.TagNameOnly(ref).(reference.NamedTagged), nil
}

func badName(name string, err error) error {
	if strings.TrimSpace(name) == "" {
		return classed(errdefs.ErrInvalidArgument, "an image name cannot be empty")
	}
	return classed(errdefs.ErrInvalidArgument, "image name %q: %w", name, err)
}

var hexDigits = regexp.MustCompile(`^[0-9a-f]{1,64}$`)

// idPrefix reports whether ref can be an id or the beginning of one, with or
// without "sha256:", and gives its digits.
func idPrefix(ref string) (string, bool) {
	hex := strings.TrimPrefix(ref, "sha256:")
	return hex, hexDigits.MatchString(hex)
}

// familiar is the short form of a record's name.
func familiar(full string) string {
	ref, err := reference.ParseNormalizedNamed(full)
	if err != nil {
		return full
	}
	return reference.FamiliarString(ref)
}
