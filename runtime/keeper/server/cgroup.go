package server

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/cgroups"
	_ "github.com/opencontainers/cgroups/devices" // device rules work only if it is linked
	"github.com/opencontainers/cgroups/manager"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

// cgroupManager is our own hand on a container's cgroups, beside libcontainer's.
func cgroupManager(config *cgroups.Cgroup, paths map[string]string) (cgroups.Manager, error) {
	return manager.NewWithPaths(config, paths)
}

// managerAt is a manager of a path alone, for what is not a container (yet).
func managerAt(path string) (cgroups.Manager, error) {
	return manager.New(&cgroups.Cgroup{Path: path, Resources: &cgroups.Resources{SkipDevices: true}})
}

// enterCgroup moves the keeper into a cgroup of its own.
func (s *Server) enterCgroup() error {
	if s.opts.Cgroup == "" {
		return nil
	}
	home, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("enter cgroup %s: %w", s.opts.Cgroup, err)
	}
	m, err := managerAt(s.opts.Cgroup)
	if err != nil {
		return fmt.Errorf("enter cgroup %s: %w", s.opts.Cgroup, err)
	}
	if err := m.Apply(os.Getpid()); err != nil {
		return fmt.Errorf("enter cgroup %s: %w", s.opts.Cgroup, err)
	}
	s.home = home
	return nil
}

// leaveCgroup goes back and removes the cgroups of ours that are empty.
func (s *Server) leaveCgroup() {
	if s.opts.Cgroup != "" {
		if m, err := managerAt(s.opts.Cgroup); err == nil {
			for controller, dir := range m.GetPaths() {
				home := s.home[controller]
				if home == filepath.Clean(s.opts.Cgroup) {
					home = "/" // an earlier keeper moved us here: we were born in it
				}
				joinCgroup(controller, home, os.Getpid())
				_ = unix.Rmdir(dir)
			}
		}
	}
	for _, path := range s.ownedCgroups() {
		removeEmpty(path) // with something in it, it is in use and stays
	}
	_ = os.Remove(s.path("keeper.cgroups"))
}

// parentsOf are the cgroups above one, the deepest first.
func parentsOf(path string) []string {
	var all []string
	for parent := filepath.Dir(filepath.Clean(path)); parent != "/" && parent != "."; parent = filepath.Dir(parent) {
		all = append(all, parent)
	}
	return all
}

// ownCgroup remembers the parents of a container's cgroup that are not there
// yet: we are about to make them, so we may remove them when nobody needs them.
// Until made is called nobody removes one.
func (s *Server) ownCgroup(path string) (made func()) {
	all := parentsOf(path)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, parent := range all {
		s.entering[parent]++
	}
	for _, parent := range all {
		if s.parents[parent] || !s.ownParent(parent) {
			break
		}
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, parent := range all {
			if s.entering[parent]--; s.entering[parent] == 0 {
				delete(s.entering, parent)
			}
		}
	}
}

// ownParent looks at a parent for the first time, and tells whether we make it.
// mu is held.
func (s *Server) ownParent(parent string) bool {
	m, err := managerAt(parent)
	if err != nil {
		return false
	}
	s.parents[parent] = true
	if m.Exists() {
		return false
	}
	f, err := os.OpenFile(s.path("keeper.cgroups"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		_, err = fmt.Fprintln(f, parent)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.log.Warn("a cgroup made for containers may stay after them", "cgroup", parent, "error", err)
	}
	return true
}

// leaveParents removes what ownCgroup has remembered above the cgroup of a
// container that is gone, where that is empty now. The one in which the keeper
// itself is stays until it leaves.
func (s *Server) leaveParents(path string) {
	ours := parentsOf(s.opts.Cgroup)
	above := slices.DeleteFunc(parentsOf(path), func(p string) bool { return slices.Contains(ours, p) })
	if len(above) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	owned := s.ownedCgroups()
	var gone []string
	for _, parent := range above {
		if s.entering[parent] > 0 || !slices.Contains(owned, parent) || !removeEmpty(parent) {
			break // and what is above it is not empty
		}
		delete(s.parents, parent)
		gone = append(gone, parent)
	}
	if len(gone) == 0 {
		return
	}
	var left strings.Builder
	for _, parent := range owned {
		if !slices.Contains(gone, parent) && !slices.Contains(ours, parent) {
			left.WriteString(parent + "\n")
		}
	}
	if err := os.WriteFile(s.path("keeper.cgroups"), []byte(left.String()), 0o600); err != nil {
		s.log.Warn("cgroups that are gone count as made for containers", "cgroups", gone, "error", err)
	}
}

// removeEmpty removes a cgroup if nothing is in it.
func removeEmpty(path string) bool {
	m, err := managerAt(path)
	if err != nil {
		return false
	}
	for _, dir := range m.GetPaths() {
		if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
			return false
		}
	}
	return true
}

// ownedCgroups lists the remembered parents, the deepest first.
func (s *Server) ownedCgroups() []string {
	b, err := os.ReadFile(s.path("keeper.cgroups"))
	if err != nil {
		b = nil
	}
	var paths []string
	if s.opts.Cgroup != "" {
		paths = append(paths, filepath.Dir(filepath.Clean(s.opts.Cgroup)))
	}
	for line := range strings.Lines(string(b)) {
		paths = append(paths, strings.TrimSpace(line))
	}
	for i := range paths { // a handful
		for j := i + 1; j < len(paths); j++ {
			if strings.Count(paths[j], "/") > strings.Count(paths[i], "/") {
				paths[i], paths[j] = paths[j], paths[i]
			}
		}
	}
	for i, p := range paths {
		if p == "/" || p == "." {
			return paths[:i]
		}
	}
	return paths
}

// warmCgroups begins to wait for what the kernel would make us wait for later:
// after an idle gap the first attach to a cgroup takes 10 ms, until all CPUs
// have seen that attaches are under way. An attach of the keeper to where it
// is starts that, while the container's mounts are made.
func (s *Server) warmCgroups() {
	now := int64(time.Since(s.began)) // which nobody sets back
	if last := s.warmed.Swap(now); last > 0 && now-last < int64(5*time.Millisecond) {
		return
	}
	s.wg.Go(func() {
		dir := s.warmDir()
		if dir != "" {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0)
		}
	})
}

func (s *Server) warmDir() string {
	if s.opts.Cgroup == "" {
		return ""
	}
	if cgroups.IsCgroup2UnifiedMode() {
		return filepath.Join("/sys/fs/cgroup", s.opts.Cgroup)
	}
	return filepath.Join("/sys/fs/cgroup/pids", s.opts.Cgroup)
}

// killAll kills every process of a container. The death of a pid namespace's
// first process takes all others with it; where the namespace is shared, the
// cgroup tells who they are.
func (c *container) killAll(m cgroups.Manager, pidfd *os.File) error {
	if pidfd != nil {
		if err := sendSignal(pidfd, unix.SIGKILL); err != nil {
			return err
		}
	}
	if c.status().State == keeper.StatePaused {
		if err := m.Freeze(cgroups.Thawed); err != nil {
			return err
		}
	}
	if !c.record.HostPid {
		return nil
	}
	return killCgroup(m)
}

// killCgroup kills whatever is in a cgroup and waits until it is empty.
func killCgroup(m cgroups.Manager) error {
	if cgroups.IsCgroup2UnifiedMode() {
		_ = os.WriteFile(filepath.Join(m.Path(""), "cgroup.kill"), []byte("1"), 0) // Linux 5.14
	}
	end := time.Now().Add(killTime)
	for {
		pids, err := pidsIn(m)
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%d processes do not die, one is %d", len(pids), pids[0])
		}
		waits, err := killThese(m, pids)
		if err != nil {
			return err
		}
		for _, f := range waits {
			_ = f.SetReadDeadline(end)
			raw, err := f.SyscallConn()
			if err == nil {
				_ = raw.Read(func(fd uintptr) bool {
					n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
					return err == nil && n > 0
				})
			}
			f.Close()
		}
	}
}

// pidsIn lists the processes in a cgroup; in one that is gone there are none.
func pidsIn(m cgroups.Manager) ([]int, error) {
	pids, err := m.GetAllPids()
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, nil
	}
	return pids, err
}

// killThese kills those of pids that are still in the cgroup, and gives their
// pidfds. Each is opened first and looked up again after that: whoever has a
// number now had it then too or is another, and nobody but the first is hit.
func killThese(m cgroups.Manager, pids []int) (killed []*os.File, err error) {
	pidfds := make(map[int]*os.File, len(pids))
	for _, pid := range pids {
		if f, err := keeper.OpenPidfd(pid); err == nil {
			pidfds[pid] = f
		}
	}
	defer func() {
		for _, f := range pidfds {
			f.Close()
		}
	}()
	still, err := pidsIn(m)
	if err != nil {
		return nil, err
	}
	for _, pid := range still {
		f, ok := pidfds[pid]
		if !ok {
			continue
		}
		delete(pidfds, pid)
		killed = append(killed, f)
		if err := sendSignal(f, unix.SIGKILL); err != nil {
			return killed, err
		}
	}
	return killed, nil
}

// sweep removes what a container has in libcontainer and the cgroups when
// nobody has a hold of it: the last keeper died while it was made.
func (c *container) sweep() error {
	if c.record.CgroupsPath != "" {
		m, err := managerAt(c.record.CgroupsPath)
		if err != nil {
			return err
		}
		if err := killCgroup(m); err != nil {
			return err
		}
		if err := m.Destroy(); err != nil {
			return err
		}
	}
	return os.RemoveAll(c.s.path("libcontainer", c.id))
}

// update changes limits.
func (c *container) update(r *specs.LinuxResources) error {
	c.op.Lock()
	defer c.op.Unlock()
	if st := c.status(); !st.Live() {
		return c.notRunning()
	}
	if r == nil {
		return nil
	}
	config := c.lc.Config()
	group := *config.Cgroups
	res := *group.Resources
	mergeResources(&res, r)
	group.Resources = &res
	config.Cgroups = &group
	if err := c.lc.Set(config); err != nil {
		return c.unlessOver(fmt.Errorf("update %s: %w", c.id, err))
	}
	return nil
}

// mergeResources puts the limits that r says into res.
func mergeResources(res *cgroups.Resources, r *specs.LinuxResources) {
	if m := r.Memory; m != nil {
		set(&res.Memory, m.Limit)
		set(&res.MemoryReservation, m.Reservation)
		set(&res.MemorySwap, m.Swap)
		if m.Swappiness != nil {
			res.MemorySwappiness = m.Swappiness
		}
		if m.DisableOOMKiller != nil {
			res.OomKillDisable = *m.DisableOOMKiller
		}
	}
	if p := r.CPU; p != nil {
		set(&res.CpuShares, p.Shares)
		set(&res.CpuQuota, p.Quota)
		set(&res.CpuPeriod, p.Period)
		set(&res.CpuRtRuntime, p.RealtimeRuntime)
		set(&res.CpuRtPeriod, p.RealtimePeriod)
		if p.Shares != nil && cgroups.IsCgroup2UnifiedMode() {
			res.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*p.Shares)
		}
		if p.Cpus != "" {
			res.CpusetCpus = p.Cpus
		}
		if p.Mems != "" {
			res.CpusetMems = p.Mems
		}
	}
	if p := r.Pids; p != nil && p.Limit != nil {
		limit := *p.Limit
		res.PidsLimit = &limit
	}
	if b := r.BlockIO; b != nil && b.Weight != nil {
		res.BlkioWeight = *b.Weight
	}
}

func set[T any](to *T, from *T) {
	if from != nil {
		*to = *from
	}
}

// stats reads the counters of a live container.
func (c *container) stats() (keeper.Stats, error) {
	c.mu.Lock()
	m, live := c.cgroup, c.pidfd != nil
	c.mu.Unlock()
	if !live || m == nil {
		return keeper.Stats{}, c.notRunning()
	}
	cs, err := m.GetStats()
	if err != nil {
		return keeper.Stats{}, err
	}
	oom, _ := m.OOMKillCount()
	cpu, mem := cs.CpuStats, cs.MemoryStats
	st := keeper.Stats{
		Read:             time.Now(),
		CPUTotal:         time.Duration(cpu.CpuUsage.TotalUsage),
		CPUUser:          time.Duration(cpu.CpuUsage.UsageInUsermode),
		CPUSystem:        time.Duration(cpu.CpuUsage.UsageInKernelmode),
		Periods:          cpu.ThrottlingData.Periods,
		ThrottledPeriods: cpu.ThrottlingData.ThrottledPeriods,
		ThrottledTime:    time.Duration(cpu.ThrottlingData.ThrottledTime),
		MemoryUsage:      mem.Usage.Usage,
		MemoryMax:        mem.Usage.MaxUsage,
		MemoryLimit:      bounded(mem.Usage.Limit),
		MemoryFailures:   mem.Usage.Failcnt,
		Memory:           mem.Stats,
		SwapUsage:        mem.SwapOnlyUsage.Usage,
		Pids:             cs.PidsStats.Current,
		PidsLimit:        bounded(cs.PidsStats.Limit),
		OOMKills:         oom,
		IOBytes:          ioOf(cs.BlkioStats.IoServiceBytesRecursive),
		IOOps:            ioOf(cs.BlkioStats.IoServicedRecursive),
	}
	for _, n := range cpu.CpuUsage.PercpuUsage {
		st.PerCPU = append(st.PerCPU, time.Duration(n))
	}
	return st, nil
}

// bounded turns the kernel's ways to say "no limit" into 0.
func bounded(n uint64) uint64 {
	if n >= math.MaxInt64&^0xffff { // v1: the largest multiple of a page
		return 0
	}
	return n
}

func ioOf(entries []cgroups.BlkioStatEntry) []keeper.IO {
	var list []keeper.IO
	for _, e := range entries {
		list = append(list, keeper.IO{Major: e.Major, Minor: e.Minor, Op: strings.ToLower(e.Op), Value: e.Value})
	}
	return list
}

// pidField reads the process id out of a pidfd's fdinfo.
func pidField(b []byte) (int, error) {
	for line := range bytes.Lines(b) {
		if rest, ok := bytes.CutPrefix(line, []byte("Pid:")); ok {
			return strconv.Atoi(string(bytes.TrimSpace(rest)))
		}
	}
	return 0, errors.New("no process id in fdinfo")
}
