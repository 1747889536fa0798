package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/cgroups"

	"gantry/runtime/keeper"
)

// sweepCgroups ends what runs beside the keeper's own cgroup in one that is
// named like a container and is none that is known: its directory in the run
// directory was deleted, and nobody could look after it any more. Whoever wants
// the container starts it again, and then it must not run twice.
func (s *Server) sweepCgroups(known map[string]bool) error {
	if s.opts.Cgroup == "" {
		return nil
	}
	parent := filepath.Dir(filepath.Clean(s.opts.Cgroup))
	above, err := managerAt(parent)
	if err != nil {
		return fmt.Errorf("look for processes that nobody owns: %w", err)
	}
	orphans := map[string]bool{}
	for _, dir := range above.GetPaths() {
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // this controller has nothing of ours
		}
		for _, e := range entries {
			if id := e.Name(); e.IsDir() && len(id) == 64 && keeper.CheckID(id) == nil && !known[id] {
				orphans[id] = true
			}
		}
	}
	var errs []error
	for id := range orphans {
		m, err := managerAt(filepath.Join(parent, id))
		if err == nil {
			_ = m.Freeze(cgroups.Thawed) // what is frozen does not die
			err = killCgroup(m)
		}
		if err == nil {
			err = m.Destroy()
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("end what is left of container %s: %w", id, err))
			continue
		}
		s.log.Warn("ended what was left of a container that nobody knows", "container", id)
	}
	return errors.Join(errs...)
}
