package spec

import (
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Validate says what of c, merged with its image, cannot be honoured on h, in
// one line that names the field in Compose's words, the reason and the next
// step. The error is ErrInvalidArgument. Facts that only the filesystem knows
// (whether a bind's source is there, whether a user exists) are checked where
// they are used.
func (c Config) Validate(h Host) error {
	for _, check := range []func(Config, Host) error{
		checkProcess, checkModes, checkMounts, checkDevices, checkPrivileges, checkSysctls,
		checkUlimits, checkLife, checkHealth, checkLog, checkNetwork,
	} {
		if err := check(c, h); err != nil {
			return err
		}
	}
	return c.Resources.Validate(h)
}

// resolver is where containers find gantry's resolver.
var resolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

const maxHostname = 64 // of the kernel, HOST_NAME_MAX

func checkProcess(c Config, _ Host) error {
	args := slices.Concat(c.Entrypoint, c.Command)
	if len(args) == 0 {
		return refuse("command", "there is none, and the image names none: give one")
	}
	if args[0] == "" {
		return refuse("command", "the program's name is empty")
	}
	if err := checkText("command", args, nil); err != nil {
		return err
	}
	if err := checkText("environment", nil, c.Env); err != nil {
		return err
	}
	if c.WorkingDir != "" && !absolute(c.WorkingDir) {
		return refuse("working_dir", "%q is not an absolute path in the container", c.WorkingDir)
	}
	for _, name := range []struct{ field, value string }{{"hostname", c.Hostname}, {"domainname", c.Domainname}} {
		if len(name.value) > maxHostname {
			return refuse(name.field, "%q is longer than %d characters", name.value, maxHostname)
		}
		odd := func(r rune) bool { return r == '/' || unicode.IsSpace(r) || !unicode.IsPrint(r) }
		if strings.ContainsFunc(name.value, odd) {
			return refuse(name.field, "%q has characters that a name cannot have", name.value)
		}
	}
	if strings.ContainsAny(c.User, "\x00\n") || strings.Count(c.User, ":") > 1 {
		return refuse("user", "%q is not of the form user or user:group", c.User)
	}
	if slices.Contains(c.GroupAdd, "") {
		return refuse("group_add", "a group is empty: give a name or a number")
	}
	for key := range c.Annotations {
		if key == "" {
			return refuse("annotations", "a key is empty")
		}
	}
	if slices.Contains(strings.Split(c.CgroupParent, "/"), "..") || strings.ContainsAny(c.CgroupParent, "\x00\n") {
		return refuse("cgroup_parent", "%q is not a plain path of a cgroup", c.CgroupParent)
	}
	return nil
}

func checkText(field string, args, env []string) error {
	for _, text := range slices.Concat(args, env) {
		if strings.Contains(text, "\x00") {
			return refuse(field, "%q has a zero byte, which no process can be given", text)
		}
	}
	for _, entry := range env {
		if entry == "" || strings.HasPrefix(entry, "=") {
			return refuse(field, "%q has no name: write NAME=value", entry)
		}
	}
	return nil
}

func checkModes(c Config, _ Host) error {
	for _, m := range []struct {
		field, mode string
		known       []string
	}{
		{"pid", c.PidMode, []string{modeHost, modeContainer}},
		{"ipc", c.IpcMode, []string{modePrivate, "shareable", "none", modeHost, modeContainer}},
		{"uts", c.UTSMode, []string{modeHost}},
		{"cgroup", c.CgroupMode, []string{modePrivate, modeHost}},
		{"userns_mode", c.UsernsMode, []string{modeHost}},
	} {
		if m.mode != "" && !slices.ContainsFunc(m.known, func(k string) bool { return isMode(m.mode, k) }) {
			return refuse(m.field, "%q is not supported: use one of %s, or leave it out", m.mode, strings.Join(m.known, ", "))
		}
	}
	if c.UTSMode == modeHost && (c.Hostname != "" || c.Domainname != "") {
		return refuse("hostname", "the container shares the host's name (uts: host), so it cannot have one of its own: remove one")
	}
	if strings.HasPrefix(c.Network.Mode, modeContainer) && c.Hostname != "" {
		return refuse("hostname", "the container shares the network of another one and has its host name: remove one")
	}
	return nil
}

// isMode says whether mode is the known one, or "container:" with an id.
func isMode(mode, known string) bool {
	if known == modeContainer {
		return strings.HasPrefix(mode, modeContainer) && len(mode) > len(modeContainer)
	}
	return mode == known
}

func checkLife(c Config, _ Host) error {
	if c.StopSignal != "" {
		if _, err := ParseSignal(c.StopSignal); err != nil {
			return refuse("stop_signal", "%q is no signal: use a name as SIGTERM, or a number", c.StopSignal)
		}
	}
	switch r := c.Restart; r.Name {
	case "", RestartNo, RestartAlways, RestartUnlessStopped:
		if r.MaxRetries != 0 {
			return refuse("restart", "a number of retries is for on-failure, not for %q: leave it out", r.Name)
		}
	case RestartOnFailure:
		if r.MaxRetries < 0 {
			return refuse("restart", "%d retries are not possible", r.MaxRetries)
		}
	default:
		return refuse("restart", "%q is no policy: use no, always, on-failure[:N] or unless-stopped", r.Name)
	}
	if r := c.Restart; r.Delay < 0 || r.Attempts < 0 || r.Window < 0 {
		return refuse("restart", "delay, attempts and window of a restart policy cannot be negative")
	}
	if c.AutoRemove && c.Restart.Name != "" && c.Restart.Name != RestartNo {
		return refuse("restart", "a container that is removed when it ends cannot be restarted: remove one of the two")
	}
	return nil
}

func checkHealth(c Config, _ Host) error {
	h := c.Healthcheck
	if h == nil {
		return nil
	}
	if len(h.Test) > 0 {
		switch kind := h.Test[0]; {
		case kind == "TCP" || kind == "HTTP":
			if _, err := h.Target(); err != nil {
				return refuse("healthcheck.test", "%v", err)
			}
		case kind != "NONE" && kind != "CMD" && kind != "CMD-SHELL":
			return refuse("healthcheck.test", "%q: the first element is not NONE, CMD, CMD-SHELL, TCP or HTTP", kind)
		case kind == "NONE" && len(h.Test) > 1:
			return refuse("healthcheck.test", "NONE stands alone")
		case kind != "NONE" && (len(h.Test) == 1 || h.Test[1] == ""):
			return refuse("healthcheck.test", "%s needs a command", kind)
		}
	}
	for _, d := range []struct {
		field string
		value time.Duration
	}{
		{"interval", h.Interval}, {"timeout", h.Timeout}, {"start_period", h.StartPeriod}, {"start_interval", h.StartInterval},
	} {
		if d.value != 0 && d.value < time.Millisecond {
			return refuse("healthcheck."+d.field, "%v is less than 1ms", d.value)
		}
	}
	if h.Retries < 0 {
		return refuse("healthcheck.retries", "%d is negative", h.Retries)
	}
	return nil
}

func checkLog(c Config, _ Host) error {
	switch c.Log.Driver {
	case "", "json-file", "local", "none":
	default:
		return refuse("logging", "the driver %q is not supported: use json-file, local or none", c.Log.Driver)
	}
	if c.Log.MaxSize < -1 {
		return refuse("logging", "max-size %d is negative", c.Log.MaxSize)
	}
	if c.Log.MaxFiles < 0 {
		return refuse("logging", "max-file %d is negative", c.Log.MaxFiles)
	}
	return nil
}

func checkNetwork(c Config, _ Host) error {
	n := c.Network
	shares := n.Mode == modeHost || n.Mode == "none" || strings.HasPrefix(n.Mode, modeContainer)
	if !shares && n.Mode != "" && n.Mode != "bridge" {
		return refuse("network_mode", "%q is not supported: use bridge, host, none or container:ID, or networks", n.Mode)
	}
	if n.Mode == modeContainer {
		return refuse("network_mode", "container: needs the name of one")
	}
	if shares && len(n.Endpoints) > 0 {
		return refuse("networks", "a container with network_mode %s cannot be on networks: remove one", n.Mode)
	}
	seen := map[string]bool{}
	for _, e := range n.Endpoints {
		if err := checkEndpoint(e); err != nil {
			return err
		}
		if seen[e.Network] {
			return refuse("networks", "%s is given twice: remove one", e.Network)
		}
		seen[e.Network] = true
	}
	for _, p := range n.Ports {
		if err := checkPort(p, n.Mode); err != nil {
			return err
		}
	}
	for _, exposed := range n.Exposed {
		if err := checkExposed(exposed); err != nil {
			return err
		}
	}
	for _, server := range n.DNS {
		addr, err := netip.ParseAddr(server)
		if err != nil {
			return refuse("dns", "%q is no address", server)
		}
		if addr.Unmap() == resolver && n.Mode != "host" {
			return refuse("dns", "%s is gantry's own resolver, which would ask itself: leave it out", server)
		}
	}
	for _, entry := range n.ExtraHosts {
		if err := checkExtraHost(entry); err != nil {
			return err
		}
	}
	for _, link := range n.Links {
		if name, _, _ := strings.Cut(link, ":"); name == "" {
			return refuse("links", "%q is not of the form CONTAINER:ALIAS", link)
		}
	}
	return checkMAC(n.MacAddress)
}

func checkEndpoint(e Endpoint) error {
	if e.Network == "" {
		return refuse("networks", "a network has no name")
	}
	if a := e.IPv4; a.IsValid() && !a.Is4() {
		return refuse("networks", "%s: ipv4_address %s is not IPv4", e.Network, a)
	}
	if a := e.IPv6; a.IsValid() && (!a.Is6() || a.Is4In6()) {
		return refuse("networks", "%s: ipv6_address %s is not IPv6", e.Network, a)
	}
	if len(e.Interface) > 15 || strings.ContainsFunc(e.Interface, func(r rune) bool { return r == '/' || r == ':' || unicode.IsSpace(r) }) {
		return refuse("networks", "%s: %q is no possible name of an interface", e.Network, e.Interface)
	}
	return checkMAC(e.MacAddress)
}

func checkMAC(text string) error {
	if text == "" {
		return nil
	}
	if mac, err := net.ParseMAC(text); err != nil || len(mac) != 6 {
		return refuse("mac_address", "%q is not of the form 02:42:ac:11:00:02", text)
	}
	return nil
}

func checkPort(p Port, mode string) error {
	where := strconv.Itoa(int(p.Port))
	switch {
	case p.Port == 0:
		return refuse("ports", "a port inside the container is missing")
	case !slices.Contains([]string{"", "tcp", "udp", "sctp"}, p.Protocol):
		return refuse("ports", "%s: the protocol %q is not tcp, udp or sctp", where, p.Protocol)
	case p.HostEnd != 0 && p.HostEnd < p.HostPort:
		return refuse("ports", "%s: the range %d-%d ends before it begins", where, p.HostPort, p.HostEnd)
	case strings.HasPrefix(mode, modeContainer):
		return refuse("ports", "%s: the container shares the network of another one: publish the port there", where)
	case mode == "none":
		return refuse("ports", "%s: the container has no network to publish from: remove the port, or network_mode: none", where)
	case mode == modeHost && p.HostPort != 0 && p.HostPort != p.Port:
		return refuse("ports", "%d:%s: the container uses the host's network, where its ports cannot have other numbers: remove the port, or network_mode: host", p.HostPort, where)
	}
	if p.HostIP != "" {
		if _, err := netip.ParseAddr(strings.Trim(p.HostIP, "[]")); err != nil {
			return refuse("ports", "%s: %q is no address of the host", where, p.HostIP)
		}
	}
	return nil
}

func checkExposed(text string) error {
	ports, protocol, _ := strings.Cut(text, "/")
	low, high, isRange := strings.Cut(ports, "-")
	from, err := strconv.ParseUint(low, 10, 16)
	to := from
	if err == nil && isRange {
		to, err = strconv.ParseUint(high, 10, 16)
	}
	if err != nil || from == 0 || to < from || !slices.Contains([]string{"", "tcp", "udp", "sctp"}, protocol) {
		return refuse("expose", "%q is not of the form 80/tcp", text)
	}
	return nil
}

func checkExtraHost(entry string) error {
	at := strings.IndexAny(entry, ":=")
	if at < 1 {
		return refuse("extra_hosts", "%q is not of the form NAME:ADDRESS", entry)
	}
	address := strings.Trim(entry[at+1:], "[]")
	if _, err := netip.ParseAddr(address); err != nil && address != "host-gateway" {
		return refuse("extra_hosts", "%q: %q is neither an address nor host-gateway", entry, address)
	}
	return nil
}
