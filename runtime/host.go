package runtime

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gantry/runtime/spec"
)

// cgroupRoot is where every distribution mounts the hierarchies.
const cgroupRoot = "/sys/fs/cgroup"

// readHost reads what the machine can give to containers. The limits are this
// process's own: the keeper is its child and has the same. Containers live
// below the cgroup parent, in which the keeper already is.
func readHost(parent string) (spec.Host, error) {
	h := spec.Host{CPUs: goruntime.NumCPU(), Seccomp: true}
	var err error
	if h.Hostname, err = os.Hostname(); err != nil {
		return h, fmt.Errorf("read host: %w", err)
	}
	if h.Kernel, err = readKernel(); err != nil {
		return h, fmt.Errorf("read host: %w", err)
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return h, fmt.Errorf("read host: memory: %w", err)
	}
	h.Memory = int64(uint64(info.Totalram) * uint64(info.Unit)) //nolint:unconvert // 32 bits wide on some machines
	if h.Capabilities, err = readBounding(); err != nil {
		return h, fmt.Errorf("read host: capabilities: %w", err)
	}
	if err := readCgroups(&h, parent); err != nil {
		return h, fmt.Errorf("read host: cgroups: %w", err)
	}
	h.CpusOnline = readWord("/sys/devices/system/cpu/online")
	h.MemsOnline = readWord("/sys/devices/system/node/online")
	h.HardLimits = map[string]uint64{}
	for name, resource := range spec.Rlimits() {
		var limit unix.Rlimit
		if err := unix.Getrlimit(resource, &limit); err == nil {
			h.HardLimits[name] = limit.Max
		}
	}
	h.NrOpen, _ = strconv.ParseUint(readWord("/proc/sys/fs/nr_open"), 10, 64)
	h.OomScoreAdj, _ = strconv.Atoi(readWord("/proc/self/oom_score_adj"))

	// EINVAL says that the kernel was built without filters, EFAULT that it
	// went on to look at the (missing) program.
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, 0, 0, 0); errors.Is(err, unix.EINVAL) {
		h.Seccomp = false
	}
	h.AppArmor = readWord("/sys/module/apparmor/parameters/enabled") == "Y"
	if h.AppArmor {
		profiles, _ := os.ReadFile("/sys/kernel/security/apparmor/profiles")
		for line := range strings.Lines(string(profiles)) {
			h.DockerDefault = h.DockerDefault || strings.HasPrefix(line, "docker-default ")
		}
	}
	h.ThermalPaths, _ = filepath.Glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle")
	return h, nil
}

func readKernel() (spec.KernelVersion, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return spec.KernelVersion{}, fmt.Errorf("kernel: %w", err)
	}
	release := unix.ByteSliceToString(name.Release[:])
	var v spec.KernelVersion
	if _, err := fmt.Sscanf(release, "%d.%d", &v.Major, &v.Minor); err != nil {
		return v, fmt.Errorf("kernel release %q: %w", release, err)
	}
	return v, nil
}

// readBounding asks for every capability the kernel knows: it answers EINVAL
// to the first one it does not.
func readBounding() ([]string, error) {
	var set []string
	for number, name := range spec.Capabilities() {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break
		}
		if err != nil {
			return nil, err
		}
		if has == 1 {
			set = append(set, name)
		}
	}
	return set, nil
}

func readCgroups(h *spec.Host, parent string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(cgroupRoot, &st); err != nil {
		return fmt.Errorf("%s: %w", cgroupRoot, err)
	}
	if st.Type == unix.CGROUP2_SUPER_MAGIC {
		return readUnified(h, cgroupRoot, parent)
	}
	// Version 1: a controller can be used where its hierarchy is mounted.
	data, err := os.ReadFile("/proc/cgroups")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || strings.HasPrefix(line, "#") || fields[3] != "1" {
			continue
		}
		if exists(filepath.Join(cgroupRoot, fields[0], "cgroup.procs")) {
			h.Controllers = append(h.Controllers, fields[0])
		}
	}
	slices.Sort(h.Controllers)
	h.SwapLimit = exists(filepath.Join(cgroupRoot, "memory/memory.memsw.limit_in_bytes"))
	h.BlkioWeight = exists(filepath.Join(cgroupRoot, "blkio/blkio.weight")) ||
		exists(filepath.Join(cgroupRoot, "blkio/blkio.bfq.weight"))
	h.DiskWeights = exists(filepath.Join(cgroupRoot, "blkio/blkio.weight_device")) ||
		exists(filepath.Join(cgroupRoot, "blkio/blkio.bfq.weight_device"))
	return nil
}

// readUnified reads what the unified hierarchy gives to groups below parent. A
// controller that the root has may not reach them: where processes of others
// are in a group above, as in a container, it cannot be handed down (cgroups(7),
// "no internal processes"). Freezing and device rules need no controller.
func readUnified(h *spec.Host, root, parent string) error {
	h.CgroupV2 = true
	data, err := os.ReadFile(filepath.Join(root, parent, "cgroup.subtree_control"))
	if errors.Is(err, fs.ErrNotExist) {
		data, err = os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	}
	if err != nil {
		return err
	}
	h.Controllers = append(strings.Fields(string(data)), "devices", "freezer")
	if slices.Contains(h.Controllers, "io") {
		h.Controllers = append(h.Controllers, "blkio")
	}
	slices.Sort(h.Controllers)
	// The root of the hierarchy has no file that limits.
	has := func(name string) bool {
		return exists(filepath.Join(root, parent, name)) || existsBelow(root, name)
	}
	h.SwapLimit = has("memory.swap.max")
	h.DiskWeights = has("io.bfq.weight")
	h.BlkioWeight = h.DiskWeights || has("io.weight")
	return nil
}

// existsBelow looks for a control file in the first level of groups.
func existsBelow(dir, name string) bool {
	found, _ := filepath.Glob(filepath.Join(dir, "*", name))
	return len(found) > 0
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// readWord reads a file of one word; "" when it is not there.
func readWord(path string) string {
	data, _ := os.ReadFile(path)
	return strings.TrimSpace(string(data))
}
