package runtime

import (
	"context"
	"errors"
	"fmt"

	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

// UpdateOptions are what changes of a container: limits that are zero stay as
// they are, and so does the restart policy when it is nil.
type UpdateOptions struct {
	Resources spec.Resources
	Restart   *spec.RestartPolicy
}

// Update changes the limits of a container, at once if it is live, and the
// restart policy that its next exit meets. Nothing changes when one of the
// limits cannot be had.
func (e *Engine) Update(ctx context.Context, ref string, o UpdateOptions) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	c := ct.snapshot()
	if c.Removal != nil || c.State == Removing || c.State == Dead {
		return beingRemoved(c)
	}
	next, err := updated(c.Config, o, e.host)
	if err != nil {
		return fmt.Errorf("update %s: %w", c.Name, err)
	}
	if c.State.Live() {
		if err := e.limit(ctx, c.ID, next); err != nil {
			return fmt.Errorf("update %s: %w", c.Name, err)
		}
	}
	now, err := e.update(ct, synced|whole, func(c *Container) { c.Config = next })
	if err != nil {
		if c.State.Live() {
			// What the record does not say must not hold either.
			err = errors.Join(err, e.limit(context.WithoutCancel(ctx), c.ID, c.Config))
		}
		return err
	}
	e.emit(now, "update", nil)
	return nil
}

// limit gives a live container the limits of a configuration.
func (e *Engine) limit(ctx context.Context, id string, c Config) error {
	nodes, err := ReadNodes(Config{Resources: c.Resources})
	if err != nil {
		return err
	}
	r, err := spec.ResourceSpec(c.Resources, e.host, nodes)
	if err != nil {
		return err
	}
	return e.Keeper.Update(ctx, id, r)
}

// updated is the configuration after an update. It is pure.
func updated(c Config, o UpdateOptions, h spec.Host) (Config, error) {
	if o.Restart != nil {
		if c.AutoRemove && o.Restart.Name != "" && o.Restart.Name != spec.RestartNo {
			return c, conflicting("Restart policy cannot be updated because AutoRemove is enabled for the container")
		}
		c.Restart = *o.Restart
	}
	r, err := mergedLimits(c.Resources, o.Resources, h)
	if err != nil {
		return c, err
	}
	if err := r.Validate(h); err != nil {
		return c, err
	}
	c.Resources = r
	return c, nil
}

// conflicting is for limits of an update that contradict those the container
// has, in Docker's words.
func conflicting(text string) error { return errdefs.ErrConflict.WithMessage(text) }

// mergedLimits lays the limits of an update over those a container has.
func mergedLimits(r, u spec.Resources, h spec.Host) (spec.Resources, error) {
	swap := r.MemorySwap
	if swap == 0 && r.Memory > 0 && h.SwapLimit {
		swap = 2 * r.Memory // what it was given
	}
	switch {
	case u.NanoCPUs != 0 && r.CPUPeriod != 0:
		return r, conflicting("Conflicting options: Nano CPUs cannot be updated as CPU Period has already been set")
	case u.NanoCPUs != 0 && r.CPUQuota != 0:
		return r, conflicting("Conflicting options: Nano CPUs cannot be updated as CPU Quota has already been set")
	case r.NanoCPUs != 0 && u.CPUPeriod != 0:
		return r, conflicting("Conflicting options: CPU Period cannot be updated as NanoCPUs has already been set")
	case r.NanoCPUs != 0 && u.CPUQuota != 0:
		return r, conflicting("Conflicting options: CPU Quota cannot be updated as NanoCPUs has already been set")
	case u.Memory > swap && swap != -1 && u.MemorySwap == 0 && (h.SwapLimit || r.MemorySwap != 0):
		return r, conflicting("Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time")
	}
	r.MemorySwap = swap
	lay(&r.NanoCPUs, u.NanoCPUs)
	lay(&r.CPUShares, u.CPUShares)
	lay(&r.CPUQuota, u.CPUQuota)
	lay(&r.CPUPeriod, u.CPUPeriod)
	lay(&r.CPURtPeriod, u.CPURtPeriod)
	lay(&r.CPURtRuntime, u.CPURtRuntime)
	lay(&r.CpusetCpus, u.CpusetCpus)
	lay(&r.CpusetMems, u.CpusetMems)
	lay(&r.Memory, u.Memory)
	lay(&r.MemorySwap, u.MemorySwap)
	lay(&r.MemoryLow, u.MemoryLow)
	lay(&r.PidsLimit, u.PidsLimit)
	lay(&r.BlkioWeight, u.BlkioWeight)
	return r, nil
}

// lay replaces a limit by one that is said.
func lay[T comparable](limit *T, said T) {
	var unsaid T
	if said != unsaid {
		*limit = said
	}
}
