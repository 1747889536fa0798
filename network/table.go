package network

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/nftables"
	"github.com/mdlayher/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// table is the instance's nftables table. Callers say what they want of it
// ([table.put], [table.del]) and then wait in [table.commit] until the kernel
// has it. One goroutine writes; what several callers asked for while it was
// busy goes out together in one atomic batch. Nobody waits for company: a lone
// change is written at once.
//
// # Trust
//
// The library acknowledges every message, but it has lost batches when the
// socket's buffer overflowed. So a batch counts only if all of it was
// acknowledged *and* the kernel's generation counter moved; otherwise, and
// whenever an element is not where the table thinks it is (somebody flushed
// the ruleset), the whole table is replaced from what is wanted, in one batch
// in which no packet sees a gap, and read back. Besides, the elements are read
// back after a batch when that has not happened for a minute.
type table struct {
	name string
	kind family
	log  *slog.Logger

	mu     sync.Mutex
	want   map[string]map[string]string // set → key → value ("" in sets)
	have   map[string]map[string]string // what the kernel holds; nil: not known, replace
	dirty  map[element]struct{}         // where they may differ
	gone   bool                         // no table is wanted
	next   *round                       // gathers callers of commit
	shut   bool
	doubt  bool   // the next round reads the table back
	static string // chains and rules as the kernel has them, once written
	paused bool

	kick chan struct{}
	done chan struct{}
}

type element struct{ set, key string }

// round is one batch and those who wait for it.
type round struct {
	done chan struct{}
	err  error
}

const verifyEvery = time.Minute

func newTable(name string, kind family, log *slog.Logger) *table {
	t := &table{
		name: name, kind: kind, log: log, gone: true,
		want:  map[string]map[string]string{},
		dirty: map[element]struct{}{},
		kick:  make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
	go t.run()
	return t
}

// close ends the writer after the round under way. The kernel keeps the table.
func (t *table) close() {
	t.mu.Lock()
	t.shut = true
	t.mu.Unlock()
	close(t.kick)
	<-t.done
}

func (t *table) put(set, key, value string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.want[set]
	if m == nil {
		m = map[string]string{}
		t.want[set] = m
	}
	if old, ok := m[key]; ok && old == value {
		return
	}
	m[key] = value
	if set == setBridges {
		t.gone = false
	}
	t.dirty[element{set, key}] = struct{}{}
}

func (t *table) del(set, key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.want[set][key]; !ok {
		return
	}
	delete(t.want[set], key)
	t.dirty[element{set, key}] = struct{}{}
}

// forget makes the next round replace the whole table.
func (t *table) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.have, t.gone = nil, false
}

// drop makes the next round delete the table. It comes back, with whatever is
// wanted then, when a bridge is put into it.
func (t *table) drop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gone = true
}

// pause makes commit return at once, with nothing written, until it is called with false.
func (t *table) pause(on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.paused = on
}

// commit waits until everything put or deleted before the call is in the
// kernel.
func (t *table) commit(ctx context.Context) error {
	t.mu.Lock()
	if t.shut {
		t.mu.Unlock()
		return fmt.Errorf("nftables table %s: the fabric is closed: %w", t.name, errdefs.ErrUnavailable)
	}
	if t.paused {
		t.mu.Unlock()
		return nil
	}
	r := t.next
	if r == nil {
		r = &round{done: make(chan struct{})}
		t.next = r
		t.kick <- struct{}{} // never blocks: one kick per round, and run has taken the last one's
	}
	t.mu.Unlock()
	select {
	case <-r.done:
		return r.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// check makes sure that the kernel has what is wanted, rules and all.
func (t *table) check(ctx context.Context) error {
	t.mu.Lock()
	t.doubt = true
	t.mu.Unlock()
	return t.commit(ctx)
}

func (t *table) run() {
	defer close(t.done)
	verified := time.Now()
	for range t.kick {
		t.mu.Lock()
		r := t.next
		t.next = nil
		doubt := t.doubt
		t.doubt = false
		t.mu.Unlock()
		r.err = t.write()
		if doubt && r.err == nil {
			verified = time.Now()
			r.err = t.repair()
		}
		close(r.done)
		if time.Since(verified) > verifyEvery {
			verified = time.Now()
			if err := t.repair(); err != nil {
				t.log.Error("nftables table is not what it should be", "table", t.name, "error", err)
			}
		}
	}
}

// repair reads the table back and replaces it if it is not what it should be.
func (t *table) repair() error {
	if err := t.verify(); err != nil {
		t.log.Warn("nftables table differs from what was written; replacing it", "table", t.name, "difference", err)
		t.forget()
		return t.write()
	}
	return nil
}

// write brings the kernel to what is wanted.
func (t *table) write() error {
	t.mu.Lock()
	if t.gone {
		t.have = nil
		clear(t.dirty)
		t.mu.Unlock()
		return t.remove()
	}
	whole := t.have == nil
	dels, adds := map[string][]nftables.SetElement{}, map[string][]nftables.SetElement{}
	if whole {
		for set, m := range t.want {
			for k, v := range m {
				adds[set] = append(adds[set], setElement(k, v))
			}
		}
	} else {
		for e := range t.dirty {
			v, want := t.want[e.set][e.key]
			old, have := t.have[e.set][e.key]
			if want == have && v == old {
				continue
			}
			if have {
				dels[e.set] = append(dels[e.set], setElement(e.key, old))
			}
			if want {
				adds[e.set] = append(adds[e.set], setElement(e.key, v))
			}
		}
	}
	taken := t.dirty
	t.dirty = map[element]struct{}{}
	wanted := map[string]map[string]string{}
	if whole {
		for set, m := range t.want {
			wanted[set] = maps.Clone(m)
		}
	} else {
		for e := range taken {
			if v, ok := t.want[e.set][e.key]; ok {
				at(wanted, e.set)[e.key] = v
			}
		}
	}
	t.mu.Unlock()
	if !whole && len(dels)+len(adds) == 0 {
		return nil
	}

	err := t.send(whole, dels, adds)
	t.mu.Lock()
	if err != nil {
		t.have = nil // unknown now
		t.mu.Unlock()
		if whole {
			return fmt.Errorf("write nftables table %s: %w", t.name, err)
		}
		t.log.Warn("nftables batch was not taken; replacing the table", "table", t.name, "error", err)
		return t.write()
	}
	if whole {
		t.have = wanted
	} else {
		for e := range taken {
			if v, ok := wanted[e.set][e.key]; ok {
				at(t.have, e.set)[e.key] = v
			} else {
				delete(t.have[e.set], e.key)
			}
		}
	}
	t.mu.Unlock()
	if whole {
		if err := t.noteStatic(); err != nil {
			return err
		}
		if err := t.verify(); err != nil {
			return fmt.Errorf("read nftables table %s back: %w", t.name, err)
		}
	}
	return nil
}

func at(m map[string]map[string]string, set string) map[string]string {
	if m[set] == nil {
		m[set] = map[string]string{}
	}
	return m[set]
}

func setElement(k, v string) nftables.SetElement {
	e := nftables.SetElement{Key: []byte(k)}
	if v != "" {
		e.Val = []byte(v)
	}
	return e
}

// errLost says that the kernel acknowledged a batch that changed nothing.
var errLost = errors.New("the kernel's generation did not move")

// send writes one batch. whole: the table is deleted and made anew in it.
func (t *table) send(whole bool, dels, adds map[string][]nftables.SetElement) error {
	c, err := dialNFT()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	before, err := generation()
	if err != nil {
		return err
	}
	nt := &nftables.Table{Family: t.kind.nft, Name: t.name}
	if whole {
		c.AddTable(nt) // so that deleting cannot fail
		c.DelTable(nt)
		t.kind.rules(c, nt)
	}
	for _, s := range t.kind.sets(nt) {
		if !whole {
			s.ID = 0 // by name: the set is of an earlier batch
		}
		// Deletions first: one key may leave and come back with a new value.
		for part := range slices.Chunk(dels[s.Name], 256) {
			if err := c.SetDeleteElements(s, part); err != nil {
				return err
			}
		}
		for part := range slices.Chunk(adds[s.Name], 256) {
			if err := c.SetAddElements(s, part); err != nil {
				return err
			}
		}
	}
	if err := c.Flush(); err != nil {
		return err
	}
	after, err := generation()
	if err != nil {
		return err
	}
	if before == after {
		return errLost
	}
	return nil
}

func (t *table) remove() error {
	c, err := dialNFT()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	nt := &nftables.Table{Family: t.kind.nft, Name: t.name}
	c.AddTable(nt)
	c.DelTable(nt)
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete nftables table %s: %w", t.name, err)
	}
	return nil
}

// verify compares the kernel's elements with those the table believes in.
func (t *table) verify() error {
	t.mu.Lock()
	if t.have == nil {
		t.mu.Unlock()
		return nil
	}
	have := map[string]map[string]string{}
	for set, m := range t.have {
		have[set] = maps.Clone(m)
	}
	static := t.static
	t.mu.Unlock()
	c, err := dialNFT()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	now, err := t.chains(c)
	if err != nil {
		return err
	}
	if now != static {
		return errors.New("its chains or rules are not those that were written")
	}
	nt := &nftables.Table{Family: t.kind.nft, Name: t.name}
	for _, s := range t.kind.sets(nt) {
		got, err := c.GetSetElements(s)
		if err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		if len(got) != len(have[s.Name]) {
			return fmt.Errorf("%s has %d elements instead of %d", s.Name, len(got), len(have[s.Name]))
		}
		for _, e := range got {
			if v, ok := have[s.Name][string(e.Key)]; !ok || v != string(e.Val) {
				return fmt.Errorf("%s has %x: %x instead of %x", s.Name, e.Key, e.Val, v)
			}
		}
	}
	return nil
}

// noteStatic remembers chains and rules as they are now, just written.
func (t *table) noteStatic() (err error) {
	c, err := dialNFT()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	static, err := t.chains(c)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.static = static
	return err
}

// chains are the table's chains with the handles of their rules, which no rule
// gets a second time.
func (t *table) chains(c *nftables.Conn) (string, error) {
	all, err := c.ListChainsOfTableFamily(t.kind.nft)
	if err != nil {
		return "", fmt.Errorf("list chains: %w", err)
	}
	var b strings.Builder
	for _, ch := range all {
		if ch.Table.Name != t.name {
			continue
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return "", fmt.Errorf("read chain %s: %w", ch.Name, err)
		}
		fmt.Fprint(&b, ch.Name)
		if ch.Policy != nil {
			fmt.Fprint(&b, " policy ", *ch.Policy)
		}
		for _, r := range rules {
			fmt.Fprint(&b, " ", r.Handle)
		}
		fmt.Fprintln(&b)
	}
	return b.String(), nil
}

// dialNFT opens a connection to the nftables of the calling thread's network
// namespace, with buffers for large batches and all their acknowledgements.
func dialNFT() (*nftables.Conn, error) {
	return nftables.New(nftables.AsLasting(), nftables.WithSockOptions(func(c *netlink.Conn) error {
		const room = 16 << 20 // a limit, not an allocation
		return errors.Join(c.SetReadBuffer(room), c.SetWriteBuffer(room))
	}))
}

// generation is the kernel's count of nftables batches in this namespace.
func generation() (uint32, error) {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	msgs, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil {
		return 0, fmt.Errorf("read nftables generation: %w", err)
	}
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[nl.SizeofNfgenmsg:])
		if err != nil {
			return 0, fmt.Errorf("read nftables generation: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == unix.NFTA_GEN_ID && len(a.Value) == 4 {
				return binary.BigEndian.Uint32(a.Value), nil
			}
		}
	}
	return 0, errors.New("read nftables generation: the kernel sent none")
}
