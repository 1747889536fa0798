package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"

	"gantry/network"
	"gantry/runtime/spec"
)

// Reshape gives a container what of a configuration needs no new container:
// limits, restart policy, published ports, networks and its names on them, and
// labels. A process that runs goes on running. Unlike [Engine.Update], limits
// that are zero are lifted.
//
// It may be repeated. When it fails the container is as it was. When the daemon
// dies in between, the record says what is wanted of its network, and the next
// one makes it so; the labels come last, and say that nothing is left to do.
func (e *Engine) Reshape(ctx context.Context, ref string, want Config) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	ct.op.Lock()
	defer ct.op.Unlock()
	was := ct.snapshot()
	if was.Removal != nil || was.State == Removing || was.State == Dead {
		return beingRemoved(was)
	}
	next, err := e.reshaped(was, want)
	if err == nil && was.State.Live() {
		err = e.relimit(ctx, was.ID, was.Config.Resources, next.Resources)
	}
	if err == nil {
		err = e.reconnect(ctx, ct, was, next)
	}
	if err != nil {
		err = fmt.Errorf("update %s: %w", was.Name, err)
		if was.State.Live() {
			// What the record does not say must not hold either.
			err = errors.Join(err, e.relimit(context.WithoutCancel(ctx), was.ID, next.Resources, was.Config.Resources))
		}
		return err
	}
	e.fault("reshape: connected")
	now, err := e.update(ct, synced|whole, func(c *Container) {
		c.Config.Labels = laid(c.Config.Labels, want.Labels)
		c.Asked.Labels = laid(c.Asked.Labels, want.Labels)
	})
	if err == nil {
		e.emit(now, "update", nil)
	}
	return err
}

func laid(under, top map[string]string) map[string]string {
	m := make(map[string]string, len(under)+len(top))
	maps.Copy(m, under)
	maps.Copy(m, top)
	return m
}

// reshaped is the configuration after it, but for the labels.
func (e *Engine) reshaped(c Container, want Config) (Config, error) {
	next := c.Config
	next.Resources, next.Restart = want.Resources, want.Restart
	n := want.Network
	if err := e.nameNetworks(&n); err != nil {
		return next, err
	}
	next.Network.Endpoints, next.Network.Ports, next.Network.Sticky = n.Endpoints, n.Ports, n.Sticky
	if next.Network.Mode == "none" && c.Asked.Network.Mode != "none" && len(n.Endpoints) > 0 {
		next.Network.Mode = "" // a call had taken it off its last network
	}
	return next, next.Validate(e.host)
}

// relimit changes the limits of a live container.
func (e *Engine) relimit(ctx context.Context, id string, was, is spec.Resources) error {
	nodes, err := ReadNodes(Config{Resources: is})
	if err != nil {
		return err
	}
	r, err := spec.ResourceChange(was, is, e.host, nodes)
	if err != nil {
		return err
	}
	return e.Keeper.Update(ctx, id, r)
}

// reconnect records a container's new configuration and has its networks and
// ports follow it; if they cannot, all is as before.
func (e *Engine) reconnect(ctx context.Context, ct *container, was Container, next Config) error {
	now, err := e.configure(ct, next)
	if err != nil || !now.State.Live() || !ownNetwork(next.Network.Mode) {
		return err
	}
	e.fault("reshape: recorded")
	w := e.rewired(ctx, now)
	if w.err != nil {
		_, err := e.configure(ct, was.Config)
		return errors.Join(w.err, err, e.rewired(context.WithoutCancel(ctx), was).err)
	}
	if now, err = e.update(ct, fact, func(c *Container) { c.Networks, c.Ports = w.joined, w.ports }); err != nil {
		return err
	}
	return e.writeHosts(now, now.Networks)
}

func (e *Engine) configure(ct *container, c Config) (Container, error) {
	return e.update(ct, synced|whole, func(now *Container) { now.Config = c })
}

// rewired is wire for a container whose ports may be fewer than before.
func (e *Engine) rewired(ctx context.Context, c Container) wiring {
	w := e.wire(ctx, c)
	if ports, err := published(c); w.err == nil && err == nil && len(ports) == 0 {
		w.err = e.closePorts(ctx, portGroup(c))
	}
	return w
}

// closePorts closes the ports of a group, although members of it live that had
// them opened: those are to lose them too.
func (e *Engine) closePorts(ctx context.Context, group string) error {
	e.mu.RLock()
	o := e.groups[group]
	e.mu.RUnlock()
	if o == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.members) == 0 {
		return nil
	}
	clear(o.members)
	return e.Fabric.Unpublish(ctx, group)
}

// follows reports whether a container is on the networks that its record says.
func follows(joined []network.Joined, endpoints []spec.Endpoint) bool {
	if len(joined) != len(endpoints) {
		return false
	}
	on := map[string]bool{}
	for _, j := range joined {
		on[j.NetworkName], on[j.NetworkID] = true, true
	}
	for _, ep := range endpoints {
		if !on[ep.Network] {
			return false
		}
	}
	return true
}
