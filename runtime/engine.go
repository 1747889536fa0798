package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
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

	closing chan struct{}
	cancel  context.CancelFunc
	ctx     context.Context // of everything the Engine does on its own
	work    sync.WaitGroup

	mu     sync.RWMutex
	byID   map[string]*container
	byName map[string]string // name → id; a creation under way holds its name here
	execs  map[string]*exec
	groups map[string]*portOwner // of published ports

	probing chan struct{} // bounds the probes that run at once
	watcher *logs.Watcher // file notices for all who follow a log
}

// container is the live side of a record.
type container struct {
	// op is held by whoever changes which process the container has: start,
	// restart, exit, remove, rename. It is held for as long as that takes.
	op sync.Mutex

	mu      sync.Mutex // guards what follows; never held while waiting
	c       Container
	exits   uint64        // how often a process has ended
	changed chan struct{} // closed and replaced at every change
	removed bool
	restart *time.Timer // a restart that is due
	stopHealth
	awaited int             // how many wait for it to become healthy
	nudge   chan struct{}   // wakes the prober
	pending []*attachment   // attached before the start
	execs   map[string]bool // ids
}

// stopHealth ends the prober of the current process and waits for it.
type stopHealth struct {
	cancelHealth context.CancelFunc
	healthDone   chan struct{}
}

// Open reads the records, learns from the keeper what lives, adopts it, sweeps
// what nobody owns, and starts what its restart policy wants started.
func Open(ctx context.Context, o Options) (*Engine, error) {
	host, err := readHost()
	if err != nil {
		return nil, fmt.Errorf("look at the machine: %w", err)
	}
	e := &Engine{
		Options: o,
		host:    host,
		rec:     records{root: filepath.Join(o.Root, "containers")},
		bus:     newBus(),
		closing: make(chan struct{}),
		byID:    map[string]*container{},
		byName:  map[string]string{},
		execs:   map[string]*exec{},
		groups:  map[string]*portOwner{},
		probing: make(chan struct{}, 2*max(host.CPUs, 1)),
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
	e.spawn(e.listen)
	return e, nil
}

// Close ends everything the Engine does on its own. Containers run on.
func (e *Engine) Close() error {
	close(e.closing)
	e.cancel()
	for _, ct := range e.all() {
		ct.mu.Lock()
		if ct.restart != nil {
			ct.restart.Stop()
		}
		ct.mu.Unlock()
	}
	e.work.Wait()
	return e.watcher.Close()
}

// spawn runs f as work the Engine waits for when it closes.
func (e *Engine) spawn(f func()) {
	e.work.Add(1)
	go func() {
		defer e.work.Done()
		f()
	}()
}

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

// watch is the container as it is now, and a channel that closes when it has
// changed.
func (ct *container) watch() (Container, uint64, bool, <-chan struct{}) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	return ct.c, ct.exits, ct.removed, ct.changed
}

// update changes the record, on disk first, and wakes those who wait. On an
// error nothing has changed.
func (e *Engine) update(ct *container, durable bool, f func(*Container)) (Container, error) {
	ct.mu.Lock()
	defer ct.mu.Unlock()
	c := ct.c
	f(&c)
	if c.State != ct.c.State {
		c.Changed = time.Now()
	}
	if ct.removed {
		return c, fmt.Errorf("container %s: removed: %w", c.Name, errdefs.ErrNotFound)
	}
	if err := e.rec.write(c, durable); err != nil {
		return ct.c, err
	}
	ct.c = c
	ct.wake()
	return c, nil
}

// wake tells everyone who watches; the caller holds mu.
func (ct *container) wake() {
	close(ct.changed)
	ct.changed = make(chan struct{})
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

// Host is what the Engine knows of the machine.
func (e *Engine) Host() spec.Host { return e.host }

// Wait returns when the container has met the condition: [NotRunning],
// [NextExit] or [Removed]. watching, if not nil, is called once nothing that
// happens to the container from then on can be missed.
func (e *Engine) Wait(ctx context.Context, ref, condition string, watching func()) (Waited, error) {
	ct, err := e.find(ref)
	if err != nil {
		return Waited{}, err
	}
	_, before, _, _ := ct.watch()
	if watching != nil {
		watching()
	}
	for {
		c, exits, removed, changed := ct.watch()
		var met bool
		switch condition {
		case NotRunning, "":
			met = !c.State.Live() && c.State != Restarting || removed
		case NextExit:
			met = exits != before || removed
		case Removed:
			met = removed
		default:
			return Waited{}, fmt.Errorf("wait condition %q: not one of not-running, next-exit, removed: %w", condition, errdefs.ErrInvalidArgument)
		}
		if met {
			return Waited{ExitCode: c.ExitCode, Error: c.Error}, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return Waited{}, ctx.Err()
		case <-e.closing:
			return Waited{}, fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable)
		}
	}
}

// AwaitChange returns when any field of the container has changed since c was
// taken, or its record is gone.
func (e *Engine) AwaitChange(ctx context.Context, c Container) error {
	ct, err := e.find(c.ID)
	if err != nil {
		return nil
	}
	now, _, removed, changed := ct.watch()
	if removed || now.Changed != c.Changed || now.State != c.State {
		return nil
	}
	select {
	case <-changed:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-e.closing:
		return errdefs.ErrUnavailable
	}
}

// AwaitHealthy returns when the container is healthy. Meanwhile it is probed
// early. It is an error when the container turns unhealthy or ends first.
func (e *Engine) AwaitHealthy(ctx context.Context, ref string) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	ct.mu.Lock()
	ct.awaited++
	nudge(ct.nudge)
	ct.mu.Unlock()
	defer func() {
		ct.mu.Lock()
		ct.awaited--
		ct.mu.Unlock()
	}()
	for {
		c, _, removed, changed := ct.watch()
		switch {
		case removed:
			return fmt.Errorf("container %s was removed: %w", c.Name, errdefs.ErrNotFound)
		case c.State == Exited || c.State == Dead:
			return fmt.Errorf("container %s exited with code %d before it was healthy: %w", c.Name, c.ExitCode, errdefs.ErrFailedPrecondition)
		case c.Health == nil && c.State == Running:
			return fmt.Errorf("container %s has no healthcheck: %w", c.Name, errdefs.ErrFailedPrecondition)
		case c.Health != nil && c.State == Running && c.Health.Status == Healthy:
			return nil
		case c.Health != nil && c.State == Running && c.Health.Status == Unhealthy:
			return fmt.Errorf("container %s is unhealthy%s: %w", c.Name, lastProbe(c.Health), errdefs.ErrFailedPrecondition)
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-e.closing:
			return fmt.Errorf("the daemon is stopping: %w", errdefs.ErrUnavailable)
		}
	}
}

func lastProbe(h *Health) string {
	if len(h.Log) == 0 {
		return ""
	}
	p := h.Log[len(h.Log)-1]
	out, _, _ := strings.Cut(strings.TrimSpace(p.Output), "\n")
	return fmt.Sprintf(" (last probe: exit code %d, %q)", p.ExitCode, out)
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// removeAll is os.RemoveAll with the container's name in its error.
func removeAll(name, path string) error {
	if err := os.RemoveAll(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove container %s: %w", name, err)
	}
	return nil
}
