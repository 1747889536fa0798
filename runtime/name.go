package runtime

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	mathrand "math/rand/v2"
	"regexp"
	"strings"

	"github.com/containerd/errdefs"
)

// nameRule is Docker's for containers.
var nameRule = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// checkName holds a name to Docker's rule.
func checkName(name string) error {
	if !nameRule.MatchString(name) {
		return fmt.Errorf("invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed, two characters at least: %w", name, errdefs.ErrInvalidArgument)
	}
	return nil
}

// reserve takes a name for a container.
func (e *Engine) reserve(name, id string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if owner, taken := e.byName[name]; taken {
		return fmt.Errorf("Conflict. The container name %q is already in use by container %q. You have to remove (or rename) that container to be able to reuse that name.: %w", "/"+name, owner, errdefs.ErrConflict) //nolint:staticcheck // Docker's clients read this text
	}
	e.byName[name] = id
	return nil
}

func (e *Engine) release(name, id string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byName[name] == id {
		delete(e.byName, name)
	}
}

// Rename gives a container another name.
func (e *Engine) Rename(ctx context.Context, ref, name string) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	name = strings.TrimPrefix(name, "/")
	if err := checkName(name); err != nil {
		return fmt.Errorf("error when allocating new name: %w", err)
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	old := ct.snapshot()
	if old.Removal != nil {
		return beingRemoved(old)
	}
	if old.Name == name {
		return fmt.Errorf("renaming a container with the same name as its current name: %w", errdefs.ErrInvalidArgument)
	}
	if err := e.reserve(name, old.ID); err != nil {
		return fmt.Errorf("error when allocating new name: %w", err)
	}
	now, err := e.update(ct, whole, func(c *Container) { c.Name = name })
	if err != nil {
		e.release(name, old.ID)
		return err
	}
	e.fault("rename: recorded")
	e.release(old.Name, old.ID)
	if now.State.Live() && ownNetwork(now.Config.Network.Mode) {
		// Its name is one of those it answers to.
		if _, err := e.Fabric.Attach(ctx, e.sandbox(now)); err != nil {
			e.Log.Error("give a renamed container its new name on its networks", "container", name, "error", err)
		}
	}
	e.emit(now, "rename", map[string]string{"oldName": "/" + old.Name})
	return nil
}

// newID is 32 random bytes as hexadecimal digits.
func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return hex.EncodeToString(b[:])
}

// freeName makes up a name for a container that was given none.
func (e *Engine) freeName() string {
	how := []string{"amber", "brisk", "calm", "deft", "early", "fair", "glad", "hardy", "keen", "lively", "mellow", "neat", "proud", "quiet", "rapid", "steady", "tidy", "vivid", "warm", "young"}
	what := []string{"anchor", "beam", "boom", "bollard", "cable", "capstan", "crane", "davit", "deck", "derrick", "girder", "hawser", "hoist", "jib", "keel", "mast", "pulley", "quay", "spar", "winch"}
	for {
		name := how[mathrand.IntN(len(how))] + "_" + what[mathrand.IntN(len(what))]
		e.mu.RLock()
		_, taken := e.byName[name]
		crowded := len(e.byName) > 100
		e.mu.RUnlock()
		if crowded {
			return name + "_" + newID()[:8]
		}
		if !taken {
			return name
		}
	}
}
