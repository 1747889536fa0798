package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// imageName is the one image: busybox and the payload.
const imageName = "gantry-bench:latest"

// idle is a service's command that does nothing, and ends at once when told to.
const idle = `["sh", "-c", "trap exit TERM; mkfifo /idle; read x <>/idle"]`

// scene is a course of events that fills some rows. It leaves the platform as
// it found it, also when it fails, unless it keeps.
type scene struct {
	rows   []*row
	play   func(ctx context.Context, b *bench, p *platform, add recorder) error
	builds bool // buildah plays it, too
	keeps  bool // what it has made stays until all is over
}

// recorder takes a sample.
type recorder func(w *row, v float64)

func (add recorder) took(w *row, d time.Duration) {
	add(w, float64(d)/float64(time.Millisecond))
}

func (add recorder) container(ran, went time.Duration) {
	add.took(runs, ran)
	add.took(gone, went)
}

var scenes = []scene{
	{[]*row{up1, noop1, ps1, execCLI, execAPI, down1}, playOne, false, false},
	{[]*row{up10, down10}, playTen, false, false},
	{[]*row{up50, noop50, ps50, rss50, pss50, rssEach, down50}, playFifty, false, false},
	{[]*row{upChain, downChain}, playChain, false, false},
	{[]*row{up100, noop100, down100}, playServices, false, false},
	{[]*row{scale100, rss100, pss100}, playScale, false, false},
	{[]*row{probesExec, probesTCP, probesHTTP}, playProbes, false, false},
	{[]*row{runs, gone}, playContainer, false, false},
	{[]*row{restart}, playCrash, false, false},
	{[]*row{kept, keptShare, keptP50, keptP99, keptDirect, each, eachShare, eachP50, eachP99, eachDirect}, playRequests, false, false},
	{[]*row{buildCached, buildChanged}, playCached, true, false},
	{[]*row{buildOne, buildTrue, buildTen}, playSteps, true, false},
	{[]*row{loadLarge}, playLoad, false, true},
	{[]*row{pullLarge, pullAgain}, playPull, false, true},
}

// project writes a compose file into a directory of its own, whose name is the
// project's.
func (b *bench) project(name, text string) (dir string, err error) {
	dir = filepath.Join(b.scratch, "projects", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	return dir, os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(text), 0o644)
}

func service(name, more string) string {
	return fmt.Sprintf("  %s:\n    image: %s\n    command: %s\n%s", name, imageName, idle, more)
}

// withStack brings a project of n containers up, plays a middle part, and
// takes it down.
func withStack(ctx context.Context, b *bench, p *platform, add recorder, name, text string, n int, up, down *row,
	middle func(dir string) error,
) (err error) {
	dir, err := b.project(name, text)
	if err != nil {
		return err
	}
	gone := false
	defer func() {
		if !gone {
			_, downErr := p.stack(context.WithoutCancel(ctx), dir, "down", "-t", "1")
			err = errors.Join(err, downErr)
		}
	}()
	took, err := p.stack(ctx, dir, "up", "-d")
	if err != nil {
		return err
	}
	if live, err := p.running(ctx, name); err != nil {
		return err
	} else if live != n {
		return fmt.Errorf("after up of %s %d containers run, not %d", name, live, n)
	}
	add.took(up, took)
	if middle != nil {
		if err := middle(dir); err != nil {
			return err
		}
	}
	gone = true
	if took, err = p.stack(ctx, dir, "down"); err != nil {
		return err
	}
	if live, err := p.running(ctx, name); err != nil {
		return err
	} else if live != 0 {
		return fmt.Errorf("after down of %s %d containers run", name, live)
	}
	add.took(down, took)
	return nil
}

func playOne(ctx context.Context, b *bench, p *platform, add recorder) error {
	return withStack(ctx, b, p, add, "one", "services:\n"+service("web", ""), 1, up1, down1, func(dir string) error {
		for _, x := range []struct {
			row  *row
			args []string
		}{{noop1, []string{"up", "-d"}}, {ps1, []string{"ps"}}, {execCLI, []string{"exec", "-T", "web", "true"}}} {
			took, err := p.stack(ctx, dir, x.args...)
			if err != nil {
				return err
			}
			add.took(x.row, took)
		}
		id, err := p.containerOf(ctx, "one")
		if err != nil {
			return err
		}
		began := time.Now()
		if err := p.exec(ctx, id, "true"); err != nil {
			return err
		}
		add.took(execAPI, time.Since(began))
		return nil
	})
}

func playTen(ctx context.Context, b *bench, p *platform, add recorder) error {
	text := "services:\n"
	for i := range 10 {
		text += service(fmt.Sprintf("s%d", i), "")
	}
	return withStack(ctx, b, p, add, "ten", text, 10, up10, down10, nil)
}

func playFifty(ctx context.Context, b *bench, p *platform, add recorder) error {
	before, _, err := p.memory()
	if err != nil {
		return err
	}
	text := "services:\n" + service("web", "    scale: 50\n")
	return withStack(ctx, b, p, add, "fifty", text, 50, up50, down50, func(dir string) error {
		rss, pss, err := p.memory()
		if err != nil {
			return err
		}
		add(rss50, rss)
		add(pss50, pss)
		add(rssEach, (rss-before)/50)
		for _, x := range []struct {
			row  *row
			args []string
		}{{noop50, []string{"up", "-d"}}, {ps50, []string{"ps"}}} {
			took, err := p.stack(ctx, dir, x.args...)
			if err != nil {
				return err
			}
			add.took(x.row, took)
		}
		if live, err := p.running(ctx, "fifty"); err != nil || live != 50 {
			return errors.Join(err, fmt.Errorf("after a second up %d containers run, not 50", live))
		}
		return nil
	})
}

func playChain(ctx context.Context, b *bench, p *platform, add recorder) error {
	text := "services:\n"
	for i := range 10 {
		more := "    healthcheck: {test: [CMD, \"true\"], interval: 1s, retries: 3}\n"
		if i > 0 {
			more += fmt.Sprintf("    depends_on: {s%d: {condition: service_healthy}}\n", i-1)
		}
		text += service(fmt.Sprintf("s%d", i), more)
	}
	return withStack(ctx, b, p, add, "chain", text, 10, upChain, downChain, nil)
}

// spokenWish is a container that is heard when it runs.
func (b *bench) spokenWish(then string) wish {
	w := wish{Image: imageName, Cmd: []string{spoken[0], spoken[1], spoken[2] + then}}
	w.HostConfig.Binds = []string{filepath.Dir(b.fifo.path) + ":" + spokenDir}
	return w
}

// playContainer makes one container by calls of the API, the way the floor
// does: create, start, wait, remove.
func playContainer(ctx context.Context, b *bench, p *platform, add recorder) error {
	for range 3 {
		began := time.Now()
		id, err := p.create(ctx, b.spokenWish(""))
		if err != nil {
			return err
		}
		// What the start's answer waits for is not the process's concern.
		heard := make(chan time.Duration, 1)
		go func() {
			err := b.fifo.hear(10 * time.Second)
			if heard <- time.Since(began); err != nil {
				b.results.note(p.name, err.Error())
			}
		}()
		err = p.start(ctx, id)
		ran := <-heard
		if err == nil {
			err = p.wait(ctx, id)
		}
		if err = errors.Join(err, p.remove(context.WithoutCancel(ctx), id)); err != nil {
			return err
		}
		add.container(ran, time.Since(began))
	}
	return nil
}

// playCrash kills the process of a container that is to run always.
func playCrash(ctx context.Context, b *bench, p *platform, add recorder) (err error) {
	for range 2 {
		w := b.spokenWish("; read x <>" + spokenDir + "/idle")
		if err := syscall.Mkfifo(filepath.Join(filepath.Dir(b.fifo.path), "idle"), 0o666); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
		w.HostConfig.RestartPolicy.Name = "always"
		took, err := b.crash(ctx, p, w)
		if err != nil {
			return err
		}
		add.took(restart, took)
	}
	return nil
}

func (b *bench) crash(ctx context.Context, p *platform, w wish) (took time.Duration, err error) {
	id, err := p.create(ctx, w)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, p.remove(context.WithoutCancel(ctx), id)) }()
	if err := p.start(ctx, id); err != nil {
		return 0, err
	}
	if err := b.fifo.hear(10 * time.Second); err != nil {
		return 0, err
	}
	time.Sleep(200 * time.Millisecond) // a crash is not part of the start
	pid, err := p.pid(ctx, id)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, err
	}
	if err := b.fifo.hear(10 * time.Second); err != nil {
		return 0, err
	}
	took = time.Since(began)
	// It has spoken before the platform has noted that it runs.
	for range 100 {
		if again, err := p.pid(ctx, id); err == nil && again != pid {
			return took, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return 0, fmt.Errorf("container %s spoke again, but has no new process", id)
}

// playRequests asks the payload through a published port, between two rounds
// of asking it on the host's loopback.
func playRequests(ctx context.Context, b *bench, p *platform, add recorder) error {
	port, err := freePort()
	if err != nil {
		return err
	}
	more := fmt.Sprintf("    ports: [\"%d:8080\"]\n", port)
	text := "services:\n" + strings.Replace(service("web", more), idle, `["/payload", ":8080"]`, 1)
	dir, err := b.project("requests", text)
	if err != nil {
		return err
	}
	if _, err := p.stack(ctx, dir, "up", "-d"); err != nil {
		return errors.Join(err, down(ctx, p, dir))
	}
	return errors.Join(b.ask(ctx, p, port, add), down(ctx, p, dir))
}

func down(ctx context.Context, p *platform, dir string) error {
	_, err := p.stack(context.WithoutCancel(ctx), dir, "down", "-t", "1")
	return err
}

// askedClients are as many as keep both CPUs busy.
const askedClients = 16

// ask measures the way through the published port, between two measurements of
// loopback; and then the way straight to the container, which has its link and
// bridge, but no published port.
func (b *bench) ask(ctx context.Context, p *platform, port int, add recorder) error {
	published := fmt.Sprintf("127.0.0.1:%d", port)
	if err := answers(ctx, published, p.enter); err != nil {
		return err
	}
	own, err := p.address(ctx, "requests")
	if err != nil {
		return err
	}
	for _, x := range []struct {
		kept                            bool
		rate, share, p50, p99, straight *row
	}{{true, kept, keptShare, keptP50, keptP99, keptDirect}, {false, each, eachShare, eachP50, eachP99, eachDirect}} {
		through := load{Addr: published, Clients: askedClients, For: b.askFor, Kept: x.kept}
		loop := through
		loop.Addr = b.server.addr
		loop.For /= 2
		before, err := loop.from(ctx, nil)
		if err != nil {
			return err
		}
		seen, err := through.from(ctx, p.enter)
		if err != nil {
			return err
		}
		after, err := loop.from(ctx, nil)
		if err != nil {
			return err
		}
		through.Addr, through.For = own+":8080", through.For/2
		straight, err := through.from(ctx, p.enter)
		if err != nil {
			return err
		}
		add(x.straight, straight.PerSecond)
		loopback := (before.PerSecond + after.PerSecond) / 2
		add(x.rate, seen.PerSecond)
		add(x.share, seen.PerSecond/loopback)
		add(x.p50, seen.P50)
		add(x.p99, seen.P99)
		b.results.add(x.rate, bareColumn, loopback)
		b.results.add(x.p50, bareColumn, (before.P50+after.P50)/2)
		b.results.add(x.p99, bareColumn, (before.P99+after.P99)/2)
	}
	return nil
}
