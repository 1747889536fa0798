package spec

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const (
	defaultShmSize = 64 << 20
	initTarget     = "/sbin/docker-init" // where Docker has it, and scripts look for it
)

var propagations = []string{"", "rprivate", "private", "rshared", "shared", "rslave", "slave"}

// procFiles are the only places below /proc that something can be mounted on:
// anything else could fool the programs that trust /proc.
var procFiles = []string{
	"/proc/cpuinfo", "/proc/diskstats", "/proc/meminfo", "/proc/stat", "/proc/swaps", "/proc/uptime",
	"/proc/loadavg", "/proc/slabinfo", "/proc/sys/kernel/ns_last_pid", "/proc/sys/crypto/fips_enabled",
}

// absolute says whether p is an absolute path that the kernel can take.
func absolute(p string) bool { return path.IsAbs(p) && !strings.Contains(p, "\x00") }

func checkMounts(c Config, h Host) error {
	seen := map[string]bool{}
	for _, m := range c.Mounts {
		if err := checkMount(m, h); err != nil {
			return err
		}
		target := path.Clean(m.Target)
		if seen[target] {
			return refuse("volumes", "two mounts have the target %s: remove one", target)
		}
		seen[target] = true
	}
	if c.ShmSize < 0 {
		return refuse("shm_size", "%d is negative", c.ShmSize)
	}
	return nil
}

func checkMount(m Mount, h Host) error {
	target := path.Clean(m.Target)
	switch {
	case !absolute(m.Target):
		return refuse("volumes", "the target %q is not an absolute path in the container", m.Target)
	case target == "/":
		return refuse("volumes", "the target / would hide the whole container: mount a directory below it")
	case below("/proc", target) && !slices.Contains(procFiles, target):
		return refuse("volumes", "the target %s is inside /proc, where nothing can be mounted", target)
	}
	if !slices.Contains(propagations, m.Propagation) {
		return refuse("volumes", "%s: the propagation %q is not one of %s", target, m.Propagation, strings.Join(propagations[1:], ", "))
	}
	if m.ShallowReadOnly && m.DeepReadOnly {
		return refuse("volumes", "%s: read-only with all below it and without is not possible: keep one", target)
	}
	if m.DeepReadOnly {
		switch {
		case !m.ReadOnly || m.NonRecursive:
			return refuse("volumes", "%s: read-only with all below it needs a mount that is read-only and recursive", target)
		case m.Propagation != "" && m.Propagation != "rprivate":
			return refuse("volumes", "%s: read-only with all below it cannot keep what is mounted later from being writable: use the propagation rprivate", target)
		case h.Kernel != (KernelVersion{}) && !h.Kernel.AtLeast(5, 12):
			return refuse("volumes", "%s: read-only with all below it needs Linux 5.12", target)
		}
	}
	if m.Propagation != "" && m.Type != MountBind {
		return refuse("volumes", "%s: propagation is for bind mounts, this is a %s: leave it out", target, m.Type)
	}
	switch m.Type {
	case MountBind:
		if !absolute(m.Source) {
			return refuse("volumes", "%s: the source %q is not an absolute path on the host", target, m.Source)
		}
	case MountVolume:
		if m.Driver != "" && m.Driver != "local" {
			return refuse("volumes", "%s: the volume driver %q is not supported: use local", target, m.Driver)
		}
		return checkSubpath(m, target)
	case MountImage:
		if m.Source == "" {
			return refuse("volumes", "%s: an image mount needs the name of an image as its source", target)
		}
		return checkSubpath(m, target)
	case MountTmpfs:
		if m.Source != "" {
			return refuse("tmpfs", "%s: a tmpfs has no source, this has %q", target, m.Source)
		}
		if target == "/proc" {
			return refuse("tmpfs", "/proc cannot be a tmpfs")
		}
		_, err := tmpfsOptions(m)
		return err
	case MountFile:
		if m.UID < 0 || m.GID < 0 || m.Mode > 0o7777 {
			return refuse("volumes", "%s: owner %d:%d and mode %#o are not possible", target, m.UID, m.GID, m.Mode)
		}
	default:
		return refuse("volumes", "%s: the type %q is not supported: use bind, volume or tmpfs", target, m.Type)
	}
	return nil
}

func checkSubpath(m Mount, target string) error {
	if p := m.Subpath; p != "" && (path.IsAbs(p) || path.Clean(p) == ".." || strings.HasPrefix(path.Clean(p), "../")) {
		return refuse("volumes", "%s: the subpath %q leads out of the %s", target, p, m.Type)
	}
	return nil
}

// defaultMounts are what every container has, parents first.
func defaultMounts(in Input) []specs.Mount {
	c := in.Config
	sys := []string{"nosuid", "noexec", "nodev", "ro"}
	if c.Privileged {
		sys = sys[:3]
	}
	cgroups := slices.Clone(sys)
	if w := c.WritableCgroups; w != nil {
		cgroups = []string{"nosuid", "noexec", "nodev", "ro"}
		if *w {
			cgroups = cgroups[:3]
		}
	}
	mounts := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: slices.Clone(sys)},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: cgroups},
	}
	ipc := []string{"nosuid", "noexec", "nodev"}
	// Message queues belong to the IPC namespace, so this shows the host's or
	// another container's where the namespace is theirs. Shared memory is files.
	mounts = append(mounts, specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: ipc})
	shm := in.ShmPath
	if c.IpcMode == modeHost {
		shm = "/dev/shm"
	}
	switch {
	case c.IpcMode == "none":
	case shm != "":
		mounts = append(mounts, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: append([]string{"bind", "rprivate"}, ipc...)})
	default:
		size := cmp.Or(c.ShmSize, defaultShmSize)
		mounts = append(mounts, specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: append(slices.Clone(ipc), "mode=1777", fmt.Sprintf("size=%d", size))})
	}
	return mounts
}

// mounts are all of a container's: the default ones that the user's do not
// replace, then the user's and the generated files, parents first.
func mounts(in Input) ([]specs.Mount, error) {
	own := map[string]bool{}
	var users []specs.Mount
	for _, m := range in.Mounts {
		target := path.Clean(m.Target)
		if err := checkMount(m, in.Host); err != nil {
			return nil, err
		}
		if own[target] {
			return nil, refuse("volumes", "two mounts have the target %s: remove one", target)
		}
		own[target] = true
		switch m.Type {
		case MountBind:
			users = append(users, bindMount(m, in.Host))
		case MountTmpfs:
			options, err := tmpfsOptions(m)
			if err != nil {
				return nil, err
			}
			users = append(users, specs.Mount{Destination: target, Type: "tmpfs", Source: "tmpfs", Options: options})
		default:
			return nil, refuse("volumes", "%s: the %s has not been given a path on the host", target, m.Type)
		}
	}
	for _, file := range []struct{ source, target string }{
		{in.Files.ResolvConf, "/etc/resolv.conf"}, {in.Files.Hostname, "/etc/hostname"}, {in.Files.Hosts, "/etc/hosts"},
	} {
		if file.source != "" && !own[file.target] {
			options := []string{"bind", "rprivate"}
			if in.Config.ReadOnly {
				options = append(options, "ro")
			}
			users = append(users, specs.Mount{Destination: file.target, Type: "bind", Source: file.source, Options: options})
		}
	}
	slices.SortStableFunc(users, func(a, b specs.Mount) int {
		return cmp.Or(depth(a.Destination)-depth(b.Destination), strings.Compare(a.Destination, b.Destination))
	})

	all := slices.DeleteFunc(defaultMounts(in), func(m specs.Mount) bool {
		for target := range own {
			if target == m.Destination || below(target, m.Destination) {
				return true // a /dev of the user's is theirs as a whole
			}
		}
		return false
	})
	all = append(all, users...)
	if in.Config.Init {
		if own[initTarget] {
			return nil, refuse("init", "%s is the target of a mount, and where the init program goes: remove one", initTarget)
		}
		if in.InitPath == "" {
			return nil, refuse("init", "there is no init program to run")
		}
		all = append(all, specs.Mount{Destination: initTarget, Type: "bind", Source: in.InitPath, Options: []string{"bind", "rprivate", "ro"}})
	}
	return all, nil
}

func depth(p string) int { return strings.Count(p, "/") }

// bindMount is recursive unless said otherwise, and read-only through all of
// its submounts where the kernel can do that.
func bindMount(m Mount, h Host) specs.Mount {
	options := []string{"rbind"}
	if m.NonRecursive {
		options[0] = "bind"
	}
	options = append(options, cmp.Or(m.Propagation, "rprivate"))
	options = append(options, m.BindOptions...)
	if m.ReadOnly {
		options = append(options, "ro")
		if !m.NonRecursive && !m.ShallowReadOnly && h.Kernel.AtLeast(5, 12) {
			options = append(options, "rro")
		}
	}
	return specs.Mount{Destination: path.Clean(m.Target), Type: "bind", Source: m.Source, Options: options}
}

// rootPropagation is what the root needs for a mount to be shared: events
// cannot pass a private parent.
func rootPropagation(list []Mount) string {
	propagation := ""
	for _, m := range list {
		switch m.Propagation {
		case "shared", "rshared":
			return "rshared"
		case "slave", "rslave":
			propagation = "rslave"
		}
	}
	return propagation
}

// tmpfsData are the options of tmpfs(5) that take a value, and what it may be.
var tmpfsData = map[string]*regexp.Regexp{
	"size":      regexp.MustCompile(`^\d{1,18}([kKmMgG]|%)?$`),
	"nr_blocks": regexp.MustCompile(`^\d{1,18}[kKmMgG]?$`),
	"nr_inodes": regexp.MustCompile(`^\d{1,18}[kKmMgG]?$`),
	"mode":      regexp.MustCompile(`^[0-7]{1,4}$`),
	"uid":       regexp.MustCompile(`^\d{1,10}$`),
	"gid":       regexp.MustCompile(`^\d{1,10}$`),
	"huge":      regexp.MustCompile(`^(never|always|within_size|advise)$`),
	"mpol":      regexp.MustCompile(`^[a-z]+(=[a-z]+)?(:[0-9-]+)?$`),
}

// tmpfsFlags are options without a value; those of one kind replace each other.
var tmpfsFlags = map[string]string{
	"ro": "write", "rw": "write", "exec": "exec", "noexec": "exec", "suid": "suid", "nosuid": "suid",
	"dev": "dev", "nodev": "dev", "sync": "sync", "async": "sync", "dirsync": "dirsync",
	"atime": "atime", "noatime": "atime", "relatime": "atime", "norelatime": "atime", "strictatime": "atime", "nostrictatime": "atime",
	"diratime": "diratime", "nodiratime": "diratime", "noswap": "swap",
}

// tmpfsOptions merges what is said with Docker's defaults; the last of a kind
// wins. An element of TmpfsOptions may be a list with commas.
func tmpfsOptions(m Mount) ([]string, error) {
	var kinds, options []string
	set := func(kind, option string) {
		if i := slices.Index(kinds, kind); i >= 0 {
			options[i] = option
			return
		}
		kinds, options = append(kinds, kind), append(options, option)
	}
	set("suid", "nosuid")
	set("dev", "nodev")
	set("exec", "noexec")
	for option := range strings.SplitSeq(strings.Join(m.TmpfsOptions, ","), ",") {
		name, value, hasValue := strings.Cut(option, "=")
		form, isData := tmpfsData[name]
		kind, isFlag := tmpfsFlags[name]
		switch {
		case option == "" || option == "defaults":
		case hasValue && isData && form.MatchString(value):
			set(name, option)
		case !hasValue && isFlag:
			set(kind, option)
		case isData:
			return nil, refuse("tmpfs", "%s: the option %q has no possible value", path.Clean(m.Target), option)
		default:
			return nil, refuse("tmpfs", "%s: the option %q is not one of tmpfs", path.Clean(m.Target), option)
		}
	}
	if m.TmpfsSize < 0 {
		return nil, refuse("tmpfs", "%s: the size %d is negative", path.Clean(m.Target), m.TmpfsSize)
	}
	if m.TmpfsSize > 0 {
		set("size", fmt.Sprintf("size=%d", m.TmpfsSize))
	}
	if m.TmpfsMode > 0o7777 {
		return nil, refuse("tmpfs", "%s: the mode %#o is more than 07777", path.Clean(m.Target), m.TmpfsMode)
	}
	if m.TmpfsMode != 0 {
		set("mode", fmt.Sprintf("mode=%04o", m.TmpfsMode))
	}
	if m.ReadOnly {
		set("write", "ro")
	}
	return options, nil
}
