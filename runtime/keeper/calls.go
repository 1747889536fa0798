package keeper

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func (c *Client) simple(ctx context.Context, verb string, body, reply any) error {
	files, err := c.call(ctx, verb, body, reply, true)
	closeAll(files)
	return err
}

// Create makes a container whose process waits to be started. A container
// that is there already is left as it is.
func (c *Client) Create(ctx context.Context, b Bundle) (st Status, err error) {
	err = c.simple(ctx, VerbCreate, b, &st)
	return st, err
}

// Start lets a created container go. The error of a command that cannot be run
// comes from Create, where the command is looked up.
func (c *Client) Start(ctx context.Context, id string) (st Status, err error) {
	err = c.simple(ctx, VerbStart, Target{ID: id}, &st)
	return st, err
}

// Run is Create and Start in one round trip. If it fails, nothing is left.
func (c *Client) Run(ctx context.Context, b Bundle) (st Status, err error) {
	err = c.simple(ctx, VerbRun, b, &st)
	return st, err
}

// Exec starts a further process in a running container. It owns the files of
// r from the call on.
func (c *Client) Exec(ctx context.Context, r ExecRequest) (ExecStarted, error) {
	call := ExecCall{ExecRequest: r}
	var files []*os.File
	for i, f := range []*os.File{r.Stdin, r.Stdout, r.Stderr} {
		if f != nil {
			call.Has[i] = true
			files = append(files, f)
		}
	}
	defer closeAll(files)
	var started ExecStarted
	got, err := c.callFirst(ctx, VerbExec, call, &started, false, func(a *answer) { c.keepExec(r, a) }, files...)
	if err != nil {
		return ExecStarted{}, err
	}
	if r.TTY && len(got) > 0 {
		started.Console, got = got[0], got[1:]
	}
	closeAll(got)
	return started, nil
}

// keepExec takes the pidfd of an exec's process, which comes last, out of the
// answer, for the next keeper. A keeper of version 1 gives it by itself.
func (c *Client) keepExec(r ExecRequest, a *answer) {
	var started ExecStarted
	n := len(a.files) - 1
	if r.TTY {
		n-- // the console
	}
	if n != 0 || a.Error != nil || json.Unmarshal(a.Body, &started) != nil {
		return
	}
	last := len(a.files) - 1
	c.mu.Lock()
	defer c.mu.Unlock()
	c.keep([]Deposit{{ID: r.ID, ExecID: r.ExecID, Kind: DepositPidfd, Pid: started.Pid}}, a.files[last:])
	a.files = a.files[:last]
}

// Signal sends a signal to a container's process, or to an exec's. To send one
// to a process that has ended is ErrFailedPrecondition.
func (c *Client) Signal(ctx context.Context, id, execID string, sig syscall.Signal) error {
	return c.simple(ctx, VerbSignal, SignalCall{Target{id, execID}, sig}, nil)
}

// Pause freezes all processes of a container.
func (c *Client) Pause(ctx context.Context, id string) error {
	return c.simple(ctx, VerbPause, Target{ID: id}, nil)
}

// Resume thaws them.
func (c *Client) Resume(ctx context.Context, id string) error {
	return c.simple(ctx, VerbResume, Target{ID: id}, nil)
}

// Update changes the limits of a live container. Fields that are nil keep
// their value.
func (c *Client) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	return c.simple(ctx, VerbUpdate, UpdateCall{id, r}, nil)
}

// Resize sets the size of the terminal of a container or an exec.
func (c *Client) Resize(ctx context.Context, id, execID string, width, height uint16) error {
	return c.simple(ctx, VerbResize, ResizeCall{Target{id, execID}, width, height}, nil)
}

// Stats reads the counters of containers; of all live ones if no id is given.
// Those that are not there or not live are missing from the answer.
func (c *Client) Stats(ctx context.Context, ids ...string) (stats map[string]Stats, err error) {
	err = c.simple(ctx, VerbStats, ids, &stats)
	return stats, err
}

// Wait waits until a container has ended, however long.
func (c *Client) Wait(ctx context.Context, id string) (x Exit, err error) {
	err = c.simple(ctx, VerbWait, Target{ID: id}, &x)
	return x, err
}

// WaitExec waits until an exec has ended. The keeper remembers the exit of an
// exec until its container is deleted.
func (c *Client) WaitExec(ctx context.Context, id, execID string) (x Exit, err error) {
	err = c.simple(ctx, VerbWait, Target{id, execID}, &x)
	return x, err
}

// Delete kills all processes of a container and removes what the keeper made
// for it. It is done when Delete returns, also if it was done before.
func (c *Client) Delete(ctx context.Context, id string) error {
	return c.simple(ctx, VerbDelete, Target{ID: id}, nil)
}

// List tells of every container.
func (c *Client) List(ctx context.Context) (all []Status, err error) {
	err = c.simple(ctx, VerbList, nil, &all)
	return all, err
}

// Processes lists the process ids of a container's processes.
func (c *Client) Processes(ctx context.Context, id string) (pids []int, err error) {
	err = c.simple(ctx, VerbProcess, Target{ID: id}, &pids)
	return pids, err
}

// Attach connects to a container's output and input. The file returned is the
// writing end of standard input (of a terminal: its master), if r asks for it
// and the container has it open; the caller closes it.
func (c *Client) Attach(ctx context.Context, r AttachRequest) (stdin *os.File, err error) {
	call := AttachCall{AttachRequest: r, HasOut: r.Out != nil}
	var files []*os.File
	if r.Out != nil {
		files = append(files, r.Out)
		defer r.Out.Close()
	}
	got, err := c.call(ctx, VerbAttach, call, nil, false, files...)
	if err != nil {
		return nil, err
	}
	if r.Stdin && len(got) > 0 {
		stdin, got = got[0], got[1:]
	}
	closeAll(got)
	return stdin, nil
}

// CloseStdin closes standard input for good: when the last file that Attach
// gave out is closed too, the process reads its end. Terminals have no end;
// for them it does nothing.
func (c *Client) CloseStdin(ctx context.Context, id string) error {
	return c.simple(ctx, VerbNoStdin, Target{ID: id}, nil)
}

// Hold stores copies of files under a name, in place of what was there. They
// stay open until Drop, whoever dies.
func (c *Client) Hold(ctx context.Context, name string, files ...*os.File) error {
	mine, err := ParkAll(files)
	if err != nil {
		return fmt.Errorf("hold %s: %w", name, err)
	}
	c.mu.Lock()
	CloseParked(c.holds[name])
	c.holds[name] = mine
	c.mu.Unlock()
	return c.simpleFiles(ctx, VerbHold, Name{name}, files)
}

// Held gives copies of all that is stored, by name. After a restart of the
// daemon, this is how it finds its sockets again.
func (c *Client) Held(ctx context.Context) (map[string][]*os.File, error) {
	var names []string
	if err := c.simple(ctx, VerbNames, nil, &names); err != nil {
		return nil, err
	}
	held := make(map[string][]*os.File, len(names))
	for _, name := range names {
		files, err := c.call(ctx, VerbHeld, Name{name}, nil, true)
		if err != nil {
			for _, files := range held {
				closeAll(files)
			}
			return nil, fmt.Errorf("held %s: %w", name, err)
		}
		held[name] = files
		if err := c.remember(name, files); err != nil {
			c.log.Warn("a held descriptor will not survive the keeper", "name", name, "error", err)
		}
	}
	return held, nil
}

// remember keeps copies of held files for the keeper after the next, unless
// this client has stored newer ones.
func (c *Client) remember(name string, files []*os.File) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.holds[name]; ok {
		return nil
	}
	mine, err := ParkAll(files)
	if err != nil {
		return err
	}
	c.holds[name] = mine
	return nil
}

// Drop closes the stored copies.
func (c *Client) Drop(ctx context.Context, name string) error {
	c.mu.Lock()
	CloseParked(c.holds[name])
	delete(c.holds, name)
	c.mu.Unlock()
	return c.simple(ctx, VerbDrop, Name{name}, nil)
}

// Goodbye says that this daemon is about to end because it was asked to: the
// keeper does not start it again.
func (c *Client) Goodbye(ctx context.Context) error {
	return c.simple(ctx, VerbGoodbye, nil, nil)
}

// Upgrade makes the keeper execute another program in its own place, under
// running containers. It returns when the keeper has agreed; KeeperLost and
// KeeperBack follow.
func (c *Client) Upgrade(ctx context.Context, program string) error {
	files, err := c.call(ctx, VerbUpgrade, UpgradeCall{program}, nil, false)
	closeAll(files)
	return err
}

// Pid is the process id of the keeper, 0 while there is none.
func (c *Client) Pid() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		return 0
	}
	return c.link.pid
}

func (c *Client) simpleFiles(ctx context.Context, verb string, body any, files []*os.File) error {
	got, err := c.call(ctx, verb, body, nil, true, files...)
	closeAll(got)
	return err
}
