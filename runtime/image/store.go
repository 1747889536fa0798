package image

import (
	"context"
	"log/slog"

	"github.com/opencontainers/go-digest"
)

// Options are those of [Open].
type Options struct {
	// Root is the daemon's root directory; the store lives in ROOT/images.
	Root string
	Log  *slog.Logger
}

// Store holds the images of one root directory.
type Store struct{}

func Open(ctx context.Context, o Options) (*Store, error) { return nil, nil }
func (s *Store) Close() error                             { return nil }
func (s *Store) Collect(ctx context.Context) error        { return nil }
func (s *Store) Lowers(ctx context.Context, id digest.Digest) ([]string, error) {
	return nil, nil
}
func (s *Store) Release(ctx context.Context, id digest.Digest) error { return nil }
func (s *Store) Pinned(ctx context.Context) ([]digest.Digest, error) { return nil, nil }
func (s *Store) Get(ctx context.Context, ref string) (Image, error)  { return Image{}, nil }
func (s *Store) List(ctx context.Context) ([]Image, error)           { return nil, nil }
func (s *Store) Tag(ctx context.Context, ref, name string) error     { return nil }
func (s *Store) Remove(ctx context.Context, ref string, o RemoveOptions) ([]Removed, error) {
	return nil, nil
}
