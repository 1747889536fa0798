package runtime

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"gantry/runtime/keeper"
	"gantry/runtime/logs"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Logs calls each for every entry of a container's log that the query selects.
// Following ends when the container does.
func (e *Engine) Logs(ctx context.Context, ref string, q logs.Query, each func(logs.Entry) error) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	c := ct.snapshot()
	if c.LogPath == "" {
		return fmt.Errorf("container %s keeps no log (logging driver %q): %w", c.Name, c.Config.Log.Driver, errdefs.ErrInvalidArgument)
	}
	if !q.Follow {
		return logs.Read(ctx, c.LogPath, q, each)
	}
	done := make(chan struct{})
	watching, stop := context.WithCancel(ctx)
	defer stop()
	q.Done, q.Watcher = done, e.watcher
	go func() {
		defer close(done)
		e.ended(watching, ct)
	}()
	err = logs.Read(ctx, c.LogPath, q, each)
	select {
	case <-e.closing:
		if err == nil {
			err = errClosing // it may go on
		}
	default:
	}
	return err
}

// ended returns when a container has no process and will have none by itself.
// By then the keeper has closed the log.
func (e *Engine) ended(ctx context.Context, ct *container) {
	for {
		v := ct.view()
		if v.idle() && v.State != Restarting || e.next(ctx, v) != nil {
			return
		}
	}
}

// Stats is what a live container uses now.
func (e *Engine) Stats(ctx context.Context, ref string) (keeper.Stats, error) {
	ct, err := e.find(ref)
	if err != nil {
		return keeper.Stats{}, err
	}
	c := ct.snapshot()
	if !c.State.Live() {
		return keeper.Stats{}, fmt.Errorf("container %s is not running: %w", c.Name, errdefs.ErrConflict)
	}
	all, err := e.Keeper.Stats(ctx, c.ID)
	if err != nil {
		return keeper.Stats{}, err
	}
	return all[c.ID], nil
}

// StatsOf is what containers use now, by id; those that are not live, or not
// there, are missing.
func (e *Engine) StatsOf(ctx context.Context, ids []string) (map[string]keeper.Stats, error) {
	if len(ids) == 0 {
		return nil, nil // to ask for none is to ask for all
	}
	return e.Keeper.Stats(ctx, ids...)
}

// Process is one process of a container, as /proc shows it to the host.
type Process struct {
	Pid, Parent, Group, Session int

	User    string // the numeric id on the host
	State   string // one letter, as proc_pid_stat(5)
	TTY     int    // the terminal's device number; 0: none
	Nice    int
	Threads int
	Ticks   uint64        // of CPU, user and system, in 1/100 s
	Age     time.Duration // since it was started
	Virtual uint64        // bytes of address space
	RSS     uint64        // bytes in memory
	// Foreground: its group is the one its terminal listens to.
	Foreground bool
	Name       string // of the program, at most 15 bytes
	Command    string // with its arguments
}

// Top lists the processes of a live container.
func (e *Engine) Top(ctx context.Context, ref string) ([]Process, error) {
	ct, err := e.find(ref)
	if err != nil {
		return nil, err
	}
	c := ct.snapshot()
	if !c.State.Live() {
		return nil, fmt.Errorf("container %s is not running: %w", c.Name, errdefs.ErrConflict)
	}
	pids, err := e.Keeper.Processes(ctx, c.ID)
	if err != nil {
		return nil, err
	}
	e.emit(c, "top", nil)
	var all []Process
	for _, pid := range pids {
		if p, ok := readProcess(pid); ok {
			all = append(all, p)
		}
	}
	return all, nil
}

// readProcess reads one process (proc_pid_stat(5)); one that has ended
// meanwhile is not there.
func readProcess(pid int) (Process, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return Process{}, false
	}
	// The name stands in parentheses and may hold any byte, so count from the last one.
	open, shut := strings.IndexByte(string(stat), '('), strings.LastIndexByte(string(stat), ')')
	if open < 0 || shut < open {
		return Process{}, false
	}
	f := strings.Fields(string(stat[shut+1:]))
	if len(f) < 22 {
		return Process{}, false
	}
	number := func(i int) int { n, _ := strconv.ParseInt(f[i], 10, 64); return int(n) }
	p := Process{
		Pid: pid, State: f[0], Parent: number(1), Group: number(2), Session: number(3), TTY: number(4),
		Foreground: number(5) == number(2), Ticks: uint64(max(number(11), 0)) + uint64(max(number(12), 0)),
		Nice: number(16), Threads: number(17), Virtual: uint64(max(number(20), 0)), RSS: uint64(max(number(21), 0)) * uint64(os.Getpagesize()),
		Name: string(stat[open+1 : shut]),
	}
	p.Command = "[" + p.Name + "]"
	var up unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) == nil {
		p.Age = max(time.Duration(up.Nano())-time.Duration(number(19))*time.Second/100, 0)
	}
	if cmd, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil && len(cmd) > 0 {
		p.Command = strings.TrimRight(strings.ReplaceAll(string(cmd), "\x00", " "), " ")
	}
	if status, err := os.ReadFile(filepath.Join(dir, "status")); err == nil {
		for line := range strings.Lines(string(status)) {
			if rest, ok := strings.CutPrefix(line, "Uid:"); ok {
				if ids := strings.Fields(rest); len(ids) > 1 {
					p.User = ids[1]
				}
			}
		}
	}
	return p, true
}
