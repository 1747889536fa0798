package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"gantry/daemon/api"
	"gantry/network"
	"gantry/runtime"
	"gantry/runtime/build"
	"gantry/runtime/image"
	"gantry/runtime/keeper"
	"gantry/runtime/volume"
	"gantry/scheduler"

	"golang.org/x/sync/errgroup"
)

// draining is how long requests under way may take once the daemon is told to
// stop; whoever follows a stream has been told by then.
const draining = 2 * time.Second

// Bounds of what a connection may take: how long it is kept for another
// request, and the bytes of a request's head.
const (
	idling    = 5 * time.Minute
	maxHeader = 256 << 10
)

// Run serves until ctx ends or a call stops the daemon. ready is told when
// requests are answered; it may be nil.
//
// The order of opening is the order of standing on one another, and closing is
// its reverse:
//
//	directories ► images, volumes ► keeper ► network ► runtime ► scheduler ► API
//
// Sockets that a daemon before left with the keeper are taken over before
// anything is recovered: calls queue in them and are answered late, not never.
func Run(ctx context.Context, c Config, ready func()) (err error) {
	if os.Geteuid() != 0 {
		return errors.New("only root may make namespaces, cgroups and networks; run gantryd as root, or `systemctl start gantryd`")
	}
	c, err = c.complete()
	if err != nil {
		return err
	}
	d := &daemon{Config: c, started: time.Now()}
	ctx, d.stop = context.WithCancelCause(ctx)
	defer d.stop(nil)
	defer func() { err = errors.Join(err, d.close()) }()
	if err := d.open(ctx); err != nil {
		return err
	}
	if ready != nil {
		ready()
	}
	return d.serve(ctx)
}

// daemon is what is open, in the order it was opened.
type daemon struct {
	Config
	started time.Time
	stop    context.CancelCauseFunc

	closers []func() error
	rest    func() // ends what runs in the background

	places    *places
	images    *image.Store
	volumes   *volume.Store
	keeper    *keeper.Client
	sockets   *sockets
	fabric    *network.Fabric
	spare     *spare
	runtime   *runtime.Engine
	builder   *build.Builder
	scheduler *scheduler.Scheduler

	listeners []net.Listener
	server    *http.Server

	mu       sync.Mutex
	lastCall bool // the keeper is to end as well
}

// opened has f called, in reverse order, when the daemon closes.
func (d *daemon) opened(what string, f func() error) {
	d.closers = append(d.closers, func() error {
		if err := f(); err != nil {
			return fmt.Errorf("close %s: %w", what, err)
		}
		return nil
	})
}

// background has f run until the daemon closes.
func (d *daemon) background(what string, f func(context.Context)) {
	ctx, stop := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { f(ctx) })
	d.rest = func() {
		stop()
		work.Wait()
	}
	d.opened(what, func() error { d.rest(); return nil })
}

func (d *daemon) close() error {
	var errs []error
	for i := len(d.closers) - 1; i >= 0; i-- {
		errs = append(errs, d.closers[i]())
	}
	return errors.Join(errs...)
}

func (d *daemon) open(ctx context.Context) (err error) {
	var secret *tls.Config
	if slices.ContainsFunc(d.Hosts, func(h string) bool { _, ok := isTCP(h); return ok }) {
		if secret, err = d.TLS.config(); err != nil {
			return err
		}
	}
	if err := enterLeaf(cgroupRoot, delegated(cgroupRoot, "/proc/self/cgroup")); err != nil {
		return err
	}
	if d.places, err = openPlaces(d.Config); err != nil {
		return err
	}
	d.opened("directories", func() error { return d.places.close(d.lastCall) })

	var g errgroup.Group
	g.Go(func() (err error) {
		d.images, err = image.Open(ctx, image.Options{Root: filepath.Join(d.Root, "images"), Registries: d.Certs, Log: d.Log})
		return err
	})
	g.Go(func() (err error) {
		d.volumes, err = volume.Open(d.Root, d.Log)
		return err
	})
	g.Go(func() error { return d.openKeeper(ctx) })
	err = g.Wait()
	for _, c := range []struct {
		what string
		open bool
		f    func() error
	}{
		{"images", d.images != nil, func() error { return d.images.Close() }},
		{"volumes", d.volumes != nil, func() error { return d.volumes.Close() }},
		{"keeper", d.keeper != nil, func() error { return d.leaveKeeper() }},
	} {
		if c.open {
			d.opened(c.what, c.f)
		}
	}
	if err != nil {
		return err
	}
	// From here on requests queue.
	for _, h := range d.Hosts {
		l, err := d.sockets.listen(h)
		if err != nil {
			return err
		}
		if _, ok := isTCP(h); ok {
			l = tls.NewListener(l, secret)
		}
		d.listeners = append(d.listeners, l)
		d.opened("socket", func() error { return ignoreClosed(l.Close()) })
	}
	d.spare = newSpare(d.Root, d.Log)
	d.opened("spare", func() error { d.spare.end(); return nil })
	d.spare.keep()
	d.fabric, err = network.Open(ctx, network.Options{
		Root: d.Root, Run: d.Run, Instance: d.instance(), Sockets: d.sockets, Log: d.Log,
	})
	if err != nil {
		return err
	}
	d.opened("network", d.fabric.Close)

	d.runtime, err = runtime.Open(ctx, runtime.Options{
		Root: d.Root, Run: d.Run, CgroupParent: d.cgroupParent(), InitPath: keeperProgram(),
		Images: d.images, Volumes: d.volumes, Fabric: d.fabric, Keeper: d.keeper, Log: d.Log,
		Place: placeOf, Spare: d.spare.give,
	})
	if err != nil {
		return err
	}
	d.opened("runtime", d.runtime.Close)
	if err := d.sockets.sweep(); err != nil {
		d.Log.Warn("let go of sockets nobody owns", "error", err)
	}

	collect := &collector{
		budget: d.Budget, root: d.Root, settle: collectSettle, gap: collectGap, images: d.runtime, log: d.Log, kick: make(chan struct{}, 1),
	}
	d.builder, err = build.New(build.Options{
		Root: filepath.Join(d.Root, "build"), Run: filepath.Join(d.Run, "build"), CgroupParent: d.cgroupParent(),
		Host: d.runtime.Host(), Nodes: runtime.ReadNodes,
		Images: d.images, Fabric: d.fabric, Keeper: d.keeper, Hosts: d.images.RegistryHosts(nil),
		Collect: d.runtime.CollectImages, Built: d.runtime.ImageBuilt, Pruned: d.runtime.BuilderPruned, Grown: collect.grown, Log: d.Log,
	})
	if err != nil {
		return err
	}
	d.opened("builder", d.builder.Close)
	collect.cache = d.builder

	every, err := d.measure()
	if err != nil {
		return err
	}
	eng := newEngine(d.runtime, d.Log)
	d.scheduler, err = scheduler.Open(scheduler.Config{Root: d.Root, Engine: eng, Meter: eng, Measure: every, Spare: d.spare.give, Log: d.Log})
	if err != nil {
		return err
	}
	d.opened("scheduler", d.scheduler.Close)
	collect.kept = d.scheduler.Images
	d.background("collector", collect.run)
	return nil
}

// openKeeper finds the keeper or starts one, and says how this daemon is to be
// started should it die.
func (d *daemon) openKeeper(ctx context.Context) error {
	o := keeper.Options{
		Run:     d.Run,
		Program: keeperProgram(),
		Cgroup:  filepath.Join(d.cgroupParent(), "keeper"),
		LogFile: filepath.Join(d.Root, "keeper.log"),
		Log:     d.Log,
	}
	if !bySystemd(os.Getenv) { // systemd starts its services itself
		self, err := os.Executable()
		if err != nil {
			return err
		}
		args := []string{self, "--root", d.Root, "--run", d.Run, "--certs", d.Certs}
		if d.Debug {
			args = append(args, "--debug")
		}
		for _, h := range d.Hosts {
			args = append(args, "--host", h)
		}
		args = append(args, d.TLS.args()...)
		args = append(args, d.Budget.args()...)
		if d.Measure != "" {
			args = append(args, "--measure", d.Measure)
		}
		o.Guard = &keeper.Guard{Args: args, Env: os.Environ(), Dir: "/", Log: d.LogFile()}
	}
	k, err := keeper.Connect(ctx, o)
	if err != nil {
		return err
	}
	d.keeper = k
	d.sockets, err = openSockets(ctx, k)
	return err
}

// keeperProgram is gantry-runtime, beside this program.
func keeperProgram() string {
	self, err := os.Executable()
	if err != nil {
		return "gantry-runtime"
	}
	return filepath.Join(filepath.Dir(self), "gantry-runtime")
}

// leaveKeeper says goodbye, so that nobody starts this daemon again, or ends
// the keeper where that was asked for.
func (d *daemon) leaveKeeper() error {
	ctx, cancel := context.WithTimeout(context.Background(), storing)
	defer cancel()
	if d.lastCall {
		return d.keeper.Shutdown(ctx, false)
	}
	var err error
	if !bySystemd(os.Getenv) {
		// Nobody starts a daemon again that said goodbye: a call that waited in
		// its socket would wait for ever.
		for _, h := range d.Hosts {
			err = errors.Join(err, d.sockets.close(h))
		}
	}
	return errors.Join(err, d.keeper.Goodbye(ctx), d.keeper.Close())
}

// chores are what is done while nobody asks for anything.
func (d *daemon) chores() {
	d.spare.keep()
	if err := unmapProgram(); err != nil {
		d.Log.Debug("let go of the program's pages", "error", err)
	}
}

func (d *daemon) serve(ctx context.Context) error {
	handler := newLull(d.chores, api.New(api.Options{
		Engine:   d.runtime,
		Builder:  d.builder,
		Projects: d.scheduler,
		Ports:    newPortPlaces(d.runtime, d.scheduler),
		Version:  d.Version.Number, Commit: d.Version.Commit, Built: d.Version.Built,
		Root: d.Root, Run: d.Run, Started: d.started,
		Keeper: d.keeper.Pid,
		Stop:   d.stopByCall,
		Log:    d.Log,
	}))
	defer handler.end()
	d.server = &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: time.Minute,
		IdleTimeout:       idling,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          slog.NewLogLogger(d.Log.Handler(), slog.LevelWarn),
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	d.Log.Info("serving", "hosts", d.Hosts, "started in", time.Since(d.started).Round(time.Millisecond))
	var g errgroup.Group
	for _, l := range d.listeners {
		g.Go(func() error {
			err := d.server.Serve(l)
			if errors.Is(err, http.ErrServerClosed) {
				return nil
			}
			d.stop(err)
			return err
		})
	}
	<-ctx.Done()
	// Streams end with ctx, the rest has a moment.
	grace, cancel := context.WithTimeout(context.Background(), draining)
	defer cancel()
	if err := d.server.Shutdown(grace); err != nil {
		d.server.Close()
	}
	return g.Wait()
}

// stopByCall is what POST /daemon/stop does. With leave, containers run on
// with the keeper; without, the keeper ends too, and none may be alive.
func (d *daemon) stopByCall(leave bool) error {
	d.mu.Lock()
	d.lastCall = !leave
	d.mu.Unlock()
	d.stop(errors.New("stopped by a call"))
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
