package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
)

// lost says that a network's bridge is not there any more, unless another one has
// been made since.
func (f *Fabric) lost(l *lan, index int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if l.index == index {
		l.index = 0
	}
}

// bridge is the index of a network's bridge, 0 if it has none now.
func (f *Fabric) bridge(l *lan) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return l.index
}

// master is bridge, of one that is made again if it was lost: a link without a
// master would be on no network.
func (f *Fabric) master(ctx context.Context, l *lan) (int, error) {
	for {
		if index := f.bridge(l); index != 0 {
			return index, nil
		}
		if err := f.ensureUp(ctx, l); err != nil {
			return 0, err
		}
	}
}

// makeBridge makes the bridge and lets packets pass it, or finds the link it
// stands for. The caller holds the machine's lock.
func (f *Fabric) makeBridge(ctx context.Context, l *lan) error {
	if !l.bridged() {
		return f.findParent(l)
	}
	f.mu.Lock()
	first := !f.joined
	f.mu.Unlock()
	if err := f.join(l); err != nil {
		return err
	}
	if first {
		_, six := l.subnet6()
		drops, err := foreignDrops(f.tag, six)
		if err != nil {
			f.log.Warn("cannot read the host's firewall", "error", err)
		}
		for _, d := range drops {
			f.log.Warn(d)
		}
	}
	f.admit(l)
	// Rules first: there is no moment in which the bridge is open.
	if err := f.commit(ctx, l); err != nil {
		f.expel(l)
		return err
	}
	index, err := ensureBridge(l.Bridge, l.gateways(), l.mtu)
	if err != nil {
		f.expel(l)
		return errors.Join(err, f.commit(context.WithoutCancel(ctx), l))
	}
	f.mu.Lock()
	l.index = index
	local := l.local
	f.mu.Unlock()
	if err := f.setVirtuals([]*lan{l}); err != nil {
		return err
	}
	if local {
		return writeSysctl("net/ipv4/conf/"+l.Bridge+"/route_localnet", "1")
	}
	return nil
}

func (f *Fabric) findParent(l *lan) error {
	link, err := netlink.LinkByName(l.parent)
	if err != nil {
		return fmt.Errorf("network %s: its parent %s is no link of this machine: %w", l.Name, l.parent, errdefs.ErrFailedPrecondition)
	}
	f.mu.Lock()
	l.index = link.Attrs().Index
	f.mu.Unlock()
	return nil
}

// join makes this instance known to the host's firewall, for the families a
// network has. The caller holds the machine's lock.
func (f *Fabric) join(l *lan) error {
	_, six := l.subnet6()
	f.mu.Lock()
	joined, joined6 := f.joined, f.joined6 || !six
	f.mu.Unlock()
	if !joined {
		if err := f.joinAs(ipv4()); err != nil {
			return err
		}
		f.mu.Lock()
		f.joined = true
		f.mu.Unlock()
	}
	if !joined6 {
		if err := f.joinAs(ipv6()); err != nil {
			return fmt.Errorf("IPv6: %w", err)
		}
		f.mu.Lock()
		f.joined6 = true
		f.mu.Unlock()
	}
	if !l.named() {
		return nil
	}
	err := admitNamed(ipv4(), l.Bridge)
	if six {
		err = errors.Join(err, admitNamed(ipv6(), l.Bridge))
	}
	return err
}

// joinAs is joinHost for this instance. That it stands in the guard is kept in a
// file: should the guard be deleted, forwarding would go on without one.
func (f *Fabric) joinAs(k family) error {
	path := filepath.Join(f.run, k.guardFile)
	_, err := os.Stat(path)
	was := err == nil
	guards, err := joinHost(k, f.tag, was)
	if err == nil && guards && !was {
		err = os.WriteFile(path, nil, 0o600)
	}
	return err
}

// leave undoes join where no network needs it any more.
func (f *Fabric) leave(four, six bool) (err error) {
	f.mu.Lock()
	f.joined, f.joined6 = f.joined && !four, f.joined6 && !six
	f.mu.Unlock()
	if four {
		err = leaveHost(ipv4(), f.tag)
	}
	if six {
		err = errors.Join(err, leaveHost(ipv6(), f.tag))
	}
	for k, left := range map[string]bool{ipv4().guardFile: four, ipv6().guardFile: six} {
		if left {
			err = errors.Join(err, removeFile(filepath.Join(f.run, k)))
		}
	}
	return err
}

// tables are those that a network's bridge is in.
func (f *Fabric) tables(l *lan) []*table {
	if _, six := l.subnet6(); six {
		return []*table{f.table, f.table6}
	}
	return []*table{f.table}
}

// commit waits until the kernel has what was said of a network's bridge.
func (f *Fabric) commit(ctx context.Context, l *lan) (err error) {
	for _, t := range f.tables(l) {
		err = errors.Join(err, t.commit(ctx))
	}
	return err
}

// admit puts a bridge into the tables, expel takes it out; the caller commits.
func (f *Fabric) admit(l *lan) {
	for _, t := range f.tables(l) {
		for _, set := range bridgeSets(l) {
			t.put(set, ifnameKey(l.Bridge), "")
		}
		t.put(setWithin, ifnameKey(l.Bridge)+ifnameKey(l.Bridge), "")
	}
}

func (f *Fabric) expel(l *lan) {
	for _, t := range f.tables(l) {
		for _, set := range bridgeSets(l) {
			t.del(set, ifnameKey(l.Bridge))
		}
		t.del(setWithin, ifnameKey(l.Bridge)+ifnameKey(l.Bridge))
	}
}

func bridgeSets(l *lan) []string {
	in := []string{setBridges}
	if l.Internal {
		in = append(in, setInternal)
	}
	if l.masquerade {
		in = append(in, setMasked)
	}
	return in
}

// vanish deletes a bridge that nobody is on, in the background: the kernel waits
// some 50 ms for packets under way, and nobody else needs to. A daemon that dies
// meanwhile leaves a link that belongs to no network, which the next one sweeps.
func (f *Fabric) vanish(bridge string) {
	done := make(chan struct{})
	f.mu.Lock()
	f.leaving[bridge] = done
	f.mu.Unlock()
	f.tasks.Go(func() {
		err := deleteLink(bridge)
		f.mu.Lock()
		delete(f.leaving, bridge)
		f.mu.Unlock()
		close(done)
		if err != nil {
			f.log.Warn("the bridge of a removed network is left", "bridge", bridge, "error", err)
		}
	})
}

// vanished waits until no bridge is being deleted any more.
func (f *Fabric) vanished(ctx context.Context) error {
	f.mu.Lock()
	all := slices.Collect(maps.Values(f.leaving))
	f.mu.Unlock()
	for _, done := range all {
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
