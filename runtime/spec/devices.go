package spec

import (
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// deviceRule is a line of the kernel's devices controller, "c 1:3 rwm".
var deviceRule = regexp.MustCompile(`^([acb]) (\d{1,9}|\*):(\d{1,9}|\*) ([rwm]{1,3})$`)

func checkDevices(c Config, _ Host) error {
	for _, d := range c.Devices {
		if strings.Contains(d.Source, "=") && !strings.HasPrefix(d.Source, "/") {
			return refuse("devices", "%q is a CDI device, which gantry does not support yet: name the device node", d.Source)
		}
		if !absolute(d.Source) || d.Target != "" && !absolute(d.Target) {
			return refuse("devices", "%s:%s: both must be absolute paths", d.Source, d.Target)
		}
		if path.Clean(d.Target) == "/" {
			return refuse("devices", "%s cannot be shown as /", d.Source)
		}
		if strings.Trim(d.Permissions, "rwm") != "" {
			return refuse("devices", "%s: permissions %q are not some of r, w and m", d.Source, d.Permissions)
		}
	}
	for _, rule := range c.DeviceCgroupRules {
		if !deviceRule.MatchString(rule) {
			return refuse("device_cgroup_rules", `%q is not of the form "c 1:3 rwm", with * for any number`, rule)
		}
	}
	return nil
}

// devices are the nodes made in the container, and the rules that let it use
// them: nothing but the runtime's own short list (null, zero, tty, …), unless
// said otherwise.
func devices(c Config, nodes []Node) ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	var made []specs.LinuxDevice
	add := func(n Node, at string) {
		made = slices.DeleteFunc(made, func(d specs.LinuxDevice) bool { return d.Path == at })
		mode, uid, gid := os.FileMode(n.Mode), n.UID, n.GID
		made = append(made, specs.LinuxDevice{
			Path: at, Type: n.Type, Major: n.Major, Minor: n.Minor, FileMode: &mode, UID: &uid, GID: &gid,
		})
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: c.Privileged, Access: "rwm"}}
	if c.Privileged {
		for _, n := range nodes {
			if below("/dev", n.Path) && !ownDevice(n.Path) {
				add(n, n.Path)
			}
		}
	}
	for _, d := range c.Devices {
		source, target, access := path.Clean(d.Source), d.Target, d.Permissions
		if target == "" {
			target = source
		}
		if access == "" {
			access = "rwm"
		}
		found := false
		for _, n := range nodes {
			if n.Path != source && !below(source, n.Path) {
				continue
			}
			found = true
			add(n, path.Join(target, strings.TrimPrefix(n.Path, source)))
			if !c.Privileged && n.Type != "p" {
				rules = append(rules, specs.LinuxDeviceCgroup{Allow: true, Type: n.Type, Major: &n.Major, Minor: &n.Minor, Access: access})
			}
		}
		if !found {
			return nil, nil, refuse("devices", "there is no device at %s on this machine: check the path", d.Source)
		}
	}
	for _, text := range c.DeviceCgroupRules {
		rule, err := parseDeviceRule(text)
		if err != nil {
			return nil, nil, err
		}
		rules = append(rules, rule)
	}
	slices.SortStableFunc(made, func(a, b specs.LinuxDevice) int { return strings.Compare(a.Path, b.Path) })
	return made, rules, nil
}

// ownDevice says whether a container has that one of its own already.
func ownDevice(p string) bool {
	switch p {
	case "/dev/console", "/dev/ptmx", "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty":
		return true
	}
	for _, dir := range []string{"/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue"} {
		if below(dir, p) {
			return true
		}
	}
	return false
}

func parseDeviceRule(text string) (specs.LinuxDeviceCgroup, error) {
	part := deviceRule.FindStringSubmatch(text)
	if part == nil {
		return specs.LinuxDeviceCgroup{}, refuse("device_cgroup_rules", `%q is not of the form "c 1:3 rwm"`, text)
	}
	number := func(s string) *int64 {
		if s == "*" {
			return nil // any
		}
		n, _ := strconv.ParseInt(s, 10, 64) // the form has been checked
		return &n
	}
	return specs.LinuxDeviceCgroup{Allow: true, Type: part[1], Major: number(part[2]), Minor: number(part[3]), Access: part[4]}, nil
}

// below says whether p is inside the directory dir.
func below(dir, p string) bool {
	return dir == "/" && p != "/" || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}
