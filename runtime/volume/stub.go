package volume

import (
	"context"
	"log/slog"
)

type Store struct{}

func Open(root string, log *slog.Logger) (*Store, error)                                       { return &Store{}, nil }
func (s *Store) Close() error                                                                 { return nil }
func (s *Store) Create(ctx context.Context, v Volume) (Volume, error)                         { return v, nil }
func (s *Store) Get(name string) (Volume, error)                                              { return Volume{}, nil }
func (s *Store) List() []Volume                                                               { return nil }
func (s *Store) Remove(ctx context.Context, name string, force bool) error                    { return nil }
func (s *Store) Source(name string) (Source, error)                                           { return Source{}, nil }
func (s *Store) Populate(ctx context.Context, name string, fill func(dir string) error) error { return nil }
