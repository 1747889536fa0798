package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gantry/network"
	"gantry/runtime/image"
	"gantry/runtime/keeper"
	"gantry/runtime/logs"
	"gantry/runtime/spec"
	"gantry/runtime/volume"

	"github.com/containerd/errdefs"
)

var errSlowReader = fmt.Errorf("the reader fell too far behind and was cut off: %w", errdefs.ErrUnavailable)

// Options are what an Engine stands on. The Engine does not close them.
type Options struct {
	Root string // durable: ROOT/containers
	Run  string // gone with the next boot: RUN/files
	// CgroupParent is the absolute cgroup path containers live under.
	CgroupParent string
	// InitPath is the program that is process 1 where a container asks for one.
	InitPath string

	Images  *image.Store
	Volumes *volume.Store
	Fabric  *network.Fabric
	Keeper  *keeper.Client
	Log     *slog.Logger

	// Place names the place that a container of this configuration fills for
	// somebody who keeps it filled, "" for none: that a call has emptied it is
	// remembered ([Engine.Removals]). Nil: nobody keeps any.
	Place func(Config) string

	// Spare gives up room that was kept on the disk, and says whether there was
	// any. Nil: none is kept.
	Spare func() bool

	fault func(step string)
}

// Engine is every container of one daemon. All methods are safe for concurrent
// use; what they return are values.
//
// A reference to a container is its name, its id, or the start of its id where
// that is unique.
type Engine struct {
	Options
	host spec.Host
	rec  records
	bus  *bus
	uses *uses

	removals *removals
	losses   *lossWatch

	closing chan struct{}
	cancel  context.CancelFunc
	ctx     context.Context // of everything the Engine does on its own

	working sync.Mutex // guards closed, and work against an Add beside its Wait
	closed  bool
	work    sync.WaitGroup

	mu     sync.RWMutex
	byID   map[string]*container
	byName map[string]string // name → id; a creation under way holds its name here
	execs  map[string]*exec
	groups map[string]*portOwner // of published ports

	// complete: every record could be read, so whatever is used is known to be.
	complete  bool
	collector atomic.Bool // a collection of images is due

	probing    chan struct{} // bounds the probes that are being started
	checkStart time.Duration // see the constant; tests have less
	began      time.Time
	restarting chan struct{} // bounds the restarts by policy
	sizing     chan struct{} // bounds the trees that are being counted
	watcher    *logs.Watcher // file notices for all who follow a log

	// fault is called between the steps of what changes containers; tests let
	// the daemon die there.
	fault func(step string)
}

// container is the live side of a record.
//
// Locks are taken in the order op, writing, mu.
type container struct {
	// op is held by whoever changes which process the container has: start,
	// restart, exit, remove, rename. It is held for as long as that takes.
	op sync.Mutex
	// writing is held from reading the record to having changed it, the disk
	// included. Who only looks does not wait for the disk.
	writing sync.Mutex

	mu       sync.Mutex // guards what follows; never held while waiting
	c        Container
	exits    uint64        // how often a process has ended
	settling bool          // one has, and its mounts and addresses are being taken apart
	changed  chan struct{} // closed and replaced at every change
	removed  bool
	restart  *time.Timer // a restart that is due
	attended attendance  // of the current process
	cycling  bool        // a call is restarting it: its exit is no crash
	sick     bool        // its end is that of an unhealthy one, which is no call's
	curing   bool        // it is being ended for that
	pauses   int         // grows as a pause or unpause begins, and as it ends
	stopHealth
	awaited int           // how many wait for it to become healthy
	nudge   chan struct{} // wakes the prober
	pending []*attachment // attached before the start
}

// stopHealth ends the prober of the current process and waits for it.
type stopHealth struct {
	cancelHealth context.CancelFunc
	healthDone   chan struct{}
}

// Open reads the records, learns from the keeper what lives, adopts it, sweeps
// what nobody owns, and starts what its restart policy wants started.
func Open(ctx context.Context, o Options) (*Engine, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	host, err := readHost(o.CgroupParent)
	if err != nil {
		return nil, fmt.Errorf("look at the machine: %w", err)
	}
	e := &Engine{
		Options:    o,
		host:       host,
		rec:        records{root: filepath.Join(o.Root, "containers")},
		bus:        newBus(),
		uses:       newUses(),
		closing:    make(chan struct{}),
		byID:       map[string]*container{},
		byName:     map[string]string{},
		execs:      map[string]*exec{},
		groups:     map[string]*portOwner{},
		probing:    make(chan struct{}, 2*max(host.CPUs, 1)),
		began:      time.Now(),
		checkStart: checkStart,
		restarting: make(chan struct{}, 4*max(host.CPUs, 1)),
		sizing:     make(chan struct{}, walks),
		fault:      o.fault,
	}
	if e.fault == nil {
		e.fault = func(string) {}
	}
	if e.removals, err = openRemovals(o.Root); err != nil {
		return nil, err
	}
	if err := e.mountFiles(); err != nil {
		return nil, err
	}
	if e.watcher, err = logs.NewWatcher(); err != nil {
		return nil, err
	}
	e.ctx, e.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if err := e.recover(ctx); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	if e.losses, err = e.openLossWatch(); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	e.spawn(func() { e.watchLosses(e.losses) })
	e.spawn(e.listen)
	return e, nil
}

// Close ends everything the Engine does on its own, and the calls that wait.
// Containers run on.
func (e *Engine) Close() error {
	e.working.Lock()
	was := e.closed
	e.closed = true
	e.working.Unlock()
	if !was {
		close(e.closing)
		e.cancel()
	}
	for _, ct := range e.all() {
		ct.cancelRestart()
	}
	var err error
	if e.losses != nil && !was {
		err = e.losses.f.Close() // ends the goroutine's read
	}
	e.work.Wait()
	return errors.Join(err, e.watcher.Close())
}

// spawn runs f as work the Engine waits for when it closes; false: it closes
// already, and f does not run.
func (e *Engine) spawn(f func()) bool {
	e.working.Lock()
	defer e.working.Unlock()
	if e.closed {
		return false
	}
	e.work.Go(f)
	return true
}

var errClosing = fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable)

func (e *Engine) all() []*container {
	e.mu.RLock()
	defer e.mu.RUnlock()
	all := make([]*container, 0, len(e.byID))
	for _, ct := range e.byID {
		all = append(all, ct)
	}
	return all
}

// find resolves a reference.
func (e *Engine) find(ref string) (*container, error) {
	ref = strings.TrimPrefix(ref, "/")
	e.mu.RLock()
	defer e.mu.RUnlock()
	if ct := e.byID[ref]; ct != nil {
		return ct, nil
	}
	if ct := e.byID[e.byName[ref]]; ct != nil {
		return ct, nil
	}
	var found *container
	if ref != "" {
		for id, ct := range e.byID {
			if !strings.HasPrefix(id, ref) {
				continue
			}
			if found != nil {
				return nil, fmt.Errorf("container %s: more than one id starts like this; give more digits: %w", ref, errdefs.ErrInvalidArgument)
			}
			found = ct
		}
	}
	if found == nil {
		return nil, fmt.Errorf("No such container: %s: %w", ref, errdefs.ErrNotFound) //nolint:staticcheck // Docker's clients read this text
	}
	return found, nil
}

// snapshot is the container as it is now.
func (ct *container) snapshot() Container {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	return ct.c
}

// view is what those see who wait for something to happen to a container.
type view struct {
	Container
	exits    uint64
	removed  bool
	settling bool
	changed  <-chan struct{} // closes when it has changed
}

// idle says that there is no process, nor anything left of the last one.
func (v view) idle() bool { return v.removed || !v.settling && !v.State.Live() }

func (ct *container) view() view {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	return view{ct.c, ct.exits, ct.removed, ct.settling, ct.changed}
}

// A writing says how a change is written.
type writing uint8

const (
	synced  writing = 1 << iota // it has reached the disk when update returns
	whole                       // container.json changes too
	fact                        // it has happened, whether or not it can be written
	quietly                     // nobody is woken
	ending                      // it must come about on a full disk too
)

// update changes the record, on disk first, and wakes those who wait. On an
// error nothing has changed, unless it is a fact.
func (e *Engine) update(ct *container, how writing, f func(*Container)) (Container, error) {
	ct.writing.Lock()
	defer ct.writing.Unlock()
	v := ct.view()
	c := v.Container
	if v.removed {
		return c, fmt.Errorf("container %s: removed: %w", c.Name, errdefs.ErrNotFound)
	}
	f(&c)
	if c.State != v.State {
		c.Changed = time.Now()
	}
	write := func() error {
		err := e.rec.writeState(c, how&synced != 0)
		if err == nil && how&whole != 0 {
			err = e.rec.writeIdentity(c)
		}
		return err
	}
	err := write()
	if how&ending != 0 {
		err = e.onSpare(err, write)
	}
	if err != nil {
		if how&fact == 0 {
			return v.Container, err
		}
		e.Log.Error("a container's state is not on disk", "container", c.Name, "error", err)
	}
	ct.mu.Lock()
	defer ct.mu.Unlock()
	ct.c = c
	if how&quietly == 0 {
		ct.wake()
	}
	return c, nil
}

// onSpare writes again, in the room that is kept for it, what a full disk has
// kept from being written: who ends or removes something may be about to make
// room.
func (e *Engine) onSpare(err error, write func() error) error {
	if errors.Is(err, syscall.ENOSPC) && e.Spare != nil && e.Spare() {
		return write()
	}
	return err
}

// recall changes what is only remembered: the next write takes it along.
func (ct *container) recall(f func(*Container)) {
	ct.writing.Lock()
	defer ct.writing.Unlock()
	ct.mu.Lock()
	defer ct.mu.Unlock()
	f(&ct.c)
}

// wake tells everyone who watches; the caller holds mu.
func (ct *container) wake() {
	close(ct.changed)
	ct.changed = make(chan struct{})
}

// cancelRestart keeps a restart that is due from happening.
func (ct *container) cancelRestart() {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	if ct.restart != nil {
		ct.restart.Stop()
		ct.restart = nil
	}
}

// Inspect returns one container.
func (e *Engine) Inspect(ref string) (Container, error) {
	ct, err := e.find(ref)
	if err != nil {
		return Container{}, err
	}
	return ct.snapshot(), nil
}

// List returns every container, the newest first.
func (e *Engine) List() []Container {
	cts := e.all()
	all := make([]Container, 0, len(cts))
	for _, ct := range cts {
		all = append(all, ct.snapshot())
	}
	slices.SortFunc(all, func(a, b Container) int {
		if n := b.Created.Compare(a.Created); n != 0 {
			return n
		}
		return strings.Compare(a.Name, b.Name)
	})
	return all
}

// Warnings say what on the machine keeps packets of containers from their way,
// a sentence each with what to do about it.
func (e *Engine) Warnings() []string { return e.Fabric.Warnings() }

// Host is what the Engine knows of the machine.
func (e *Engine) Host() spec.Host { return e.host }
