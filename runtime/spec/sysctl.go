package spec

import (
	"maps"
	"regexp"
	"slices"
	"strings"
)

// sysctlName: segments between "." or "/"; in the form with slashes a dot
// belongs to the segment (an interface "eno1.100"), and the other way round.
var sysctlName = regexp.MustCompile(`^[a-z][a-z0-9_-]*([./][A-Za-z0-9_:@-]+)+$`)

// ipcSysctls are those of the IPC namespace, besides fs.mqueue.
var ipcSysctls = []string{
	"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
	"kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced",
}

// dotted is the name with dots between its segments, whichever way it came.
func dotted(name string) string {
	if first := strings.IndexAny(name, "./"); first < 0 || name[first] == '.' {
		return name
	}
	return strings.NewReplacer("/", ".", ".", "/").Replace(name)
}

// checkSysctls lets through what belongs to one of the container's own
// namespaces. All else is the whole machine's.
func checkSysctls(c Config, _ Host) error {
	for _, name := range slices.Sorted(maps.Keys(c.Sysctls)) {
		full := dotted(name)
		switch {
		case !sysctlName.MatchString(name):
			return refuse("sysctls", "%q is no name of a sysctl", name)
		case strings.ContainsAny(c.Sysctls[name], "\x00\n"):
			return refuse("sysctls", "%s: the value is not one line of text", name)
		case strings.HasPrefix(full, "net."):
			if c.Network.Mode == modeHost {
				return refuse("sysctls", "%s would change the host, whose network the container uses: set it on the host", name)
			}
		case strings.HasPrefix(full, "fs.mqueue.") || slices.Contains(ipcSysctls, full):
			if c.IpcMode == modeHost {
				return refuse("sysctls", "%s would change the host, whose IPC namespace the container uses: set it on the host", name)
			}
		case full == "kernel.domainname":
			if c.UTSMode == modeHost {
				return refuse("sysctls", "%s would change the host, whose UTS namespace the container uses: set it on the host", name)
			}
		case full == "kernel.hostname":
			return refuse("sysctls", "%s: set hostname instead", name)
		default:
			return refuse("sysctls", "%s belongs to the whole machine, not to a container: set it on the host", name)
		}
	}
	return nil
}

// sysctls are the user's and Docker's defaults for a network of one's own: in
// there, low ports and ping need no capability.
func sysctls(in Input) map[string]string {
	set := map[string]string{}
	said := map[string]bool{}
	for name, value := range in.Config.Sysctls {
		set[name] = value
		said[dotted(name)] = true
	}
	if mode := in.Config.Network.Mode; mode != modeHost && !strings.HasPrefix(mode, modeContainer) {
		for name, value := range map[string]string{
			"net.ipv4.ip_unprivileged_port_start": "0",
			"net.ipv4.ping_group_range":           "0 2147483647",
		} {
			if !said[name] {
				set[name] = value
			}
		}
	}
	return set
}
