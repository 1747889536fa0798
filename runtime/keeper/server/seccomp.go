package server

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runc/libcontainer/configs"

	"gantry/runtime/keeper"
)

// compiledMark begins the metadata of a profile that carries its filter.
const compiledMark = "gantry-compiled:"

// filters remembers the compiled filter of each profile the keeper has met.
// Libcontainer compiles a profile inside every container and exec, half of
// their cost; a keeper built by precompile/build hands them the finished
// program. See there. Profiles are kept by what they say and not by their
// program, which is not the same twice.
type filters struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]*filter
}

type filter struct {
	once sync.Once
	text string // "": the process compiles it itself
}

// maxFilters bounds what users' own profiles can make the keeper remember.
const maxFilters = 64

// add puts the compiled filter into a profile that can have one.
func (f *filters) add(s *configs.Seccomp) error {
	if s == nil {
		return nil
	}
	if strings.HasPrefix(s.ListenerMetadata, compiledMark) {
		return keeper.Classed(errdefs.ErrInvalidArgument, fmt.Errorf("seccomp profile: listenerMetadata must not begin with %q", compiledMark))
	}
	if compileFilter == nil || s.ListenerPath != "" || s.DefaultAction == configs.Notify {
		return nil
	}
	for _, call := range s.Syscalls {
		if call == nil || call.Action == configs.Notify {
			return nil
		}
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	key := sha256.Sum256(b)
	f.mu.Lock()
	if f.known == nil || len(f.known) >= maxFilters {
		f.known = map[[sha256.Size]byte]*filter{}
	}
	c, ok := f.known[key]
	if !ok {
		c = &filter{}
		f.known[key] = c
	}
	f.mu.Unlock()
	c.once.Do(func() {
		// If it fails, it fails in the process too, which then says why.
		if text, err := compileFilter(s); err == nil {
			c.text = text
		}
	})
	if c.text != "" {
		s.ListenerMetadata = c.text
	}
	return nil
}
