package image

import (
	"context"
	"io"
)

// Import makes an image of one layer from the root file system in the tar stream r.
func (s *Store) Import(ctx context.Context, r io.Reader, o ImportOptions) (Image, error) {
	return Image{}, nil
}
func (s *Store) Load(ctx context.Context, r io.Reader, report func(string)) ([]Image, error) {
	return nil, nil
}
