package network

import (
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Drivers of networks.
const (
	DriverBridge  = "bridge"
	DriverMacvlan = "macvlan"
)

// Options of the drivers that are honoured, under Docker's names.
const (
	optionMTU        = "com.docker.network.driver.mtu"                  // bytes
	optionPrefix     = "com.docker.network.container_iface_prefix"      // of the interfaces' names, "eth"
	optionMasquerade = "com.docker.network.bridge.enable_ip_masquerade" // "false": leave with the sandbox's own address
	optionICC        = "com.docker.network.bridge.enable_icc"           // "false": the network's sandboxes do not reach each other
	optionName       = "com.docker.network.bridge.name"                 // of the link on the host
	optionBinding    = "com.docker.network.bridge.host_binding_ipv4"    // where ports are published that name no address
	optionParent     = "parent"                                         // macvlan: the link of the host it shares
	optionMode       = "macvlan_mode"                                   // "bridge" (also ""), "private", "vepa", "passthru"
)

// settings are a network's options, read.
type settings struct {
	mtu        int // 0: the kernel's
	prefix     string
	masquerade bool
	icc        bool
	name       string
	binding    netip.Addr
	parent     string
	mode       uint32 // of macvlan
}

// From enum macvlan_mode of linux/if_link.h.
var macvlanModes = map[string]uint32{"private": 1, "vepa": 2, "": 4, "bridge": 4, "passthru": 8}

// linkRule: what the kernel takes for a link's name and a path below /proc/sys.
var linkRule = regexp.MustCompile(`^[a-zA-Z0-9_-][a-zA-Z0-9_.-]{0,14}$`)

// settingsOf reads the options of a network.
func settingsOf(n Spec) (settings, error) {
	s := settings{masquerade: true, icc: true, prefix: "eth", mode: macvlanModes[""]}
	bridge := n.Driver != DriverMacvlan
	bad := func(k, v, want string) error {
		return fmt.Errorf("option %s=%q is not %s: %w", k, v, want, errdefs.ErrInvalidArgument)
	}
	for k, v := range n.Options {
		var err error
		switch {
		case k == optionMTU:
			if s.mtu, err = strconv.Atoi(v); err != nil || s.mtu < 68 || s.mtu > 65535 {
				return s, bad(k, v, "a size between 68 and 65535")
			}
		case k == optionPrefix:
			if s.prefix = v; !linkRule.MatchString(v) || len(v) > 12 || v == "lo" {
				return s, bad(k, v, "the beginning of a link's name")
			}
		case bridge && (k == optionMasquerade || k == optionICC):
			on, err := strconv.ParseBool(v)
			if err != nil {
				return s, bad(k, v, "true or false")
			}
			if k == optionICC {
				s.icc = on
			} else {
				s.masquerade = on
			}
		case bridge && k == optionName:
			if s.name = v; !linkRule.MatchString(v) || strings.HasPrefix(v, bridgePrefix) || strings.HasPrefix(v, vethPrefix) {
				return s, bad(k, v, "a possible name of a link (nor may it begin with "+bridgePrefix+" or "+vethPrefix+")")
			}
		case bridge && k == optionBinding:
			if s.binding, err = netip.ParseAddr(v); err != nil || !s.binding.Is4() {
				return s, bad(k, v, "an IPv4 address")
			}
		case !bridge && k == optionParent:
			if s.parent = v; !linkRule.MatchString(v) {
				return s, bad(k, v, "the name of a link")
			}
		case !bridge && k == optionMode:
			mode, known := macvlanModes[v]
			if !known {
				return s, bad(k, v, "bridge, private, vepa or passthru")
			}
			s.mode = mode
		default:
			return s, fmt.Errorf("driver option %q is not supported by driver %s: %w", k, n.Driver, errdefs.ErrNotImplemented)
		}
	}
	if !bridge && s.parent == "" {
		return s, fmt.Errorf("a macvlan network needs the option %s, the link of this machine that it shares (-o parent=eth0): %w", optionParent, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// HostBinding is the address on which a network's ports are published that name
// none; zero: on all.
func (n Network) HostBinding() netip.Addr {
	s, err := settingsOf(n.Spec)
	if err != nil {
		return netip.Addr{}
	}
	return s.binding
}
