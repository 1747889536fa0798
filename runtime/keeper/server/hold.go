package server

import (
	"fmt"
	"os"
	"sort"

	"github.com/containerd/errdefs"

	"gantry/runtime/keeper"
	"gantry/runtime/logs"
)

// hold stores descriptors for a daemon that may die.
func (s *Server) hold(r *request) error {
	return do(r, func(n keeper.Name) error {
		if n.Name == "" {
			return keeper.Classed(errdefs.ErrInvalidArgument, fmt.Errorf("hold: no name"))
		}
		parked, err := keeper.ParkAll(r.files)
		if err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		keeper.CloseParked(s.holds[n.Name])
		s.holds[n.Name] = parked
		return nil
	})
}

func (s *Server) held(r *request) error {
	return do(r, func(n keeper.Name) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		files, err := keeper.Files(s.holds[n.Name])
		r.out = append(r.out, files...)
		return err
	})
}

func (s *Server) heldNames() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.holds))
	for n := range s.holds {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

func (s *Server) drop(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	keeper.CloseParked(s.holds[name])
	delete(s.holds, name)
}

// deposits are the descriptors of a container that its daemon should hold, so
// that the next keeper gets them.
func (c *container) deposits() ([]keeper.Deposit, []*os.File) {
	var ds []keeper.Deposit
	var files []*os.File
	add := func(d keeper.Deposit, f *os.File) {
		if f != nil {
			d.ID = c.id
			ds, files = append(ds, d), append(files, f)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pidfd == nil {
		return nil, nil
	}
	add(keeper.Deposit{Kind: keeper.DepositPidfd, Pid: c.pid}, c.pidfd)
	if c.io != nil {
		c.io.mu.Lock()
		if !c.record.TTY {
			add(keeper.Deposit{Kind: keeper.DepositStdout}, c.io.out[logs.Stdout])
			add(keeper.Deposit{Kind: keeper.DepositStderr}, c.io.out[logs.Stderr])
		}
		add(keeper.Deposit{Kind: keeper.DepositConsole}, c.io.master)
		add(keeper.Deposit{Kind: keeper.DepositStdin}, c.io.stdin)
		c.io.mu.Unlock()
	}
	for id, e := range c.execs {
		add(keeper.Deposit{ExecID: id, Kind: keeper.DepositPidfd, Pid: e.pid}, e.pidfd)
	}
	return ds, files
}

func (c *container) entrustTo(conn *conn) {
	ds, files := c.deposits()
	for len(ds) > 0 { // a frame carries so many
		n := min(len(ds), keeper.MaxFiles)
		conn.push(keeper.VerbReturn, ds[:n], files[:n]...)
		ds, files = ds[n:], files[n:]
	}
}
