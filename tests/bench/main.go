// Command bench measures how fast gantry brings stacks up and down, beside
// what else could do it on this machine: Debian's Docker with Docker Compose,
// crun, and libcontainer alone. It prints one table of medians and spreads,
// with the targets and whether they are met.
//
// Machines are noisy, so everything is measured in rounds in which gantry and
// its peers take turns, in an order that changes. Peers that are slow are
// asked less often: each scene has a share of the time.
//
// Everything happens in a scratch directory and on the loopback; the daemons
// are the benchmark's own, with their own directories, cgroups and, Docker's,
// network namespace. What the benchmark has made it removes.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := live(ctx, os.Args); err != nil && !errors.Is(err, flag.ErrHelp) {
		for line := range strings.Lines(err.Error()) {
			fmt.Fprintln(os.Stderr, "bench:", strings.TrimSpace(line))
		}
		os.Exit(1)
	}
}

// live leads the one of the program's lives that its arguments say. All but
// one are processes the benchmark starts, for namespaces of their own.
func live(ctx context.Context, args []string) error {
	switch {
	case len(args) > 1 && args[1] == "load":
		return loadMode(args[2:])
	case len(args) > 1 && args[1] == "crun":
		return crunMode(args[2:])
	}
	return run(ctx, args[1:])
}

// options are what the command line says.
type options struct {
	bin, images string
	rounds      int
	limit       time.Duration
	quick       bool
	only        *regexp.Regexp
	peers       []string
	json        string
	quiet       bool
}

func parse(args []string) (options, error) {
	o := options{only: regexp.MustCompile("")}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&o.bin, "bin", "bin", "`directory` of gantry's programs")
	f.StringVar(&o.images, "images", "build/images", "`directory` of busybox.tar")
	f.IntVar(&o.rounds, "rounds", 10, "how often everything is measured, at most")
	f.DurationVar(&o.limit, "limit", 10*time.Minute, "begin no round after this long, beyond the third")
	f.BoolVar(&o.quick, "quick", false, "3 rounds, 2 minutes")
	f.Func("only", "measure only rows that match the `regexp`", func(s string) (err error) {
		o.only, err = regexp.Compile(s)
		return err
	})
	peers := f.String("peers", strings.Join(columns[1:], ","), "measure these beside gantry; \"\" for none")
	f.StringVar(&o.json, "json", "", "write the table with all samples to a `file`, too")
	f.BoolVar(&o.quiet, "quiet", false, "say nothing on the way")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q", f.Arg(0))
	}
	if o.quick {
		o.rounds, o.limit = min(o.rounds, 3), min(o.limit, 2*time.Minute)
	}
	if o.rounds < 1 {
		return o, errors.New("--rounds: at least 1")
	}
	for p := range strings.SplitSeq(*peers, ",") {
		if p != "" && !slices.Contains(columns[1:], p) {
			return o, fmt.Errorf("--peers %s: there are %s", p, strings.Join(columns[1:], ", "))
		}
		o.peers = append(o.peers, p)
	}
	return o, nil
}

// bench is one run of the benchmark.
type bench struct {
	options
	scratch string
	payload string // program
	archive string // image
	fifo    *fifo  // what containers of platforms speak into
	server  *hostServer
	floor   *floor
	buildah *platform
	larges  int // images that were made
	counter int
	results *results
	askFor  time.Duration
	began   time.Time
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("needs root: containers are made")
	}
	repo, err := repository(ctx)
	if err != nil {
		return err
	}
	if err := os.Chdir(repo); err != nil {
		return err
	}
	// Short, since sockets below it have 107 bytes for their names.
	scratch, err := os.MkdirTemp("", "gb-")
	if err != nil {
		return err
	}
	b := &bench{
		options: o, scratch: scratch, results: newResults(),
		askFor: 2 * time.Second, began: time.Now(),
	}
	defer func() { err = errors.Join(err, b.removeScratch()) }()
	if err := b.prepare(ctx, o.images); err != nil {
		return err
	}
	if b.fifo, err = openFIFO(filepath.Join(scratch, "spoken")); err != nil {
		return err
	}
	defer b.fifo.close()
	if b.server, err = startHostServer(b.payload); err != nil {
		return err
	}
	defer b.server.close()
	return b.measure(ctx)
}

// measure opens gantry and its peers, plays all rounds and prints.
func (b *bench) measure(ctx context.Context) (err error) {
	cgroup := "/" + filepath.Base(b.scratch)
	about := map[string]string{"machine": machine(), "load before": loadAverage()}
	b.say("starting")
	gantry, err := openGantry(ctx, b.bin, b.scratch, b.archive)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, gantry.close()) }()
	about[gantryColumn] = gantry.about
	platforms := []*platform{gantry}

	if slices.Contains(b.peers, dockerColumn) && b.wantsAny() {
		docker, err := openDocker(ctx, b.scratch, b.archive, cgroup+"-docker")
		if err != nil {
			b.results.note(dockerColumn, err.Error())
		} else {
			defer func() {
				b.complain(docker.close())
				b.complain(removeCgroups(cgroup + "-docker"))
			}()
			about[dockerColumn] = docker.about
			platforms = append(platforms, docker)
		}
	}
	if b.wantsFloor() {
		if b.floor, err = openFloor(ctx, b.scratch, b.archive, cgroup); err != nil {
			b.results.note(bareColumn, err.Error())
			b.results.note(crunColumn, err.Error())
		} else {
			defer func() { b.complain(b.floor.close()) }()
		}
		if out, err := exec.CommandContext(ctx, "crun", "--version").Output(); err == nil {
			about[crunColumn], _, _ = strings.Cut(string(out), "\n")
		}
	}

	if slices.Contains(b.peers, buildahColumn) && b.wantsBuilds() {
		if b.buildah, err = openBuildah(ctx, b.scratch, b.archive); err != nil {
			b.results.note(buildahColumn, err.Error())
		} else {
			defer func() { b.complain(b.buildah.close()) }()
			about[buildahColumn] = b.buildah.about
		}
	}

	failed := b.play(ctx, platforms)
	var where []part
	if ctx.Err() == nil && b.only.MatchString("breakdown") {
		b.say("where the time goes")
		if where, err = b.breakdown(ctx, gantry, min(b.rounds, 5)); err != nil {
			b.results.note(gantryColumn, "breakdown: "+err.Error())
		}
	}
	about["load after"] = loadAverage()
	b.print(about, where)
	if b.json != "" {
		if err := b.writeJSON(about, where); err != nil {
			return err
		}
	}
	if ctx.Err() != nil {
		failed = errors.Join(failed, errors.New("interrupted"))
	}
	return failed
}

// say tells on standard error what is going on.
func (b *bench) say(format string, args ...any) {
	if !b.quiet {
		fmt.Fprintf(os.Stderr, "%4.0fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
	}
}

// complain tells what did not end well without spoiling the result.
func (b *bench) complain(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: clean up:", err)
	}
}

// shown tells whether a row is to be printed. One that belongs to the row
// above it goes with that.
func (b *bench) shown(w *row) bool {
	heading := w
	for _, r := range rows {
		if !strings.HasPrefix(r.name, " ") {
			heading = r
		}
		if r == w {
			break
		}
	}
	return b.only.MatchString(heading.name) || b.only.MatchString(w.name)
}

func (b *bench) print(about map[string]string, where []part) {
	for _, k := range slices.Sorted(maps.Keys(about)) {
		fmt.Printf("%s: %s\n", k, about[k])
	}
	fmt.Printf("cells: median, p10–p90, samples; bare: libcontainer alone, for requests the host's loopback, for load tar xf\n\n")
	b.results.print(os.Stdout, b.shown)
	if n, of := b.results.missed(); of > 0 {
		fmt.Printf("\n%d of %d targets met\n", of-n, of)
	}
	if len(where) > 0 {
		fmt.Println()
		printParts(os.Stdout, where)
	}
}

func (b *bench) writeJSON(about map[string]string, where []part) (err error) {
	f, err := os.Create(b.json)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return b.results.writeJSON(f, document{Date: b.began, About: about, Parts: where}, b.shown)
}

// removeScratch removes everything, and says if something is still mounted
// there.
func (b *bench) removeScratch() error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	var left []error
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], b.scratch) {
			left = append(left, fmt.Errorf("still mounted: %s", f[4]))
		}
	}
	if left != nil {
		return errors.Join(left...) // removing would reach through
	}
	return os.RemoveAll(b.scratch)
}

// machine says what the numbers are from.
func machine() string {
	var name syscall.Utsname
	_ = syscall.Uname(&name)
	release := make([]byte, 0, len(name.Release))
	for _, c := range name.Release {
		if c == 0 {
			break
		}
		release = append(release, byte(c))
	}
	groups := "cgroup v1"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		groups = "cgroup v2"
	}
	return fmt.Sprintf("%d CPUs, Linux %s, %s", runtime.NumCPU(), release, groups)
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err.Error()
	}
	f := strings.Fields(string(text))
	return strings.Join(f[:min(3, len(f))], " ")
}
