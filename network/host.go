package network

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
)

// What the machine's own firewall and gantry owe each other.
//
// Linux forwards between all links or none. Where the machine did not forward
// before, gantry switches it on together with a guard: a table, shared by all
// instances, that drops forwarded packets which neither come from nor go to a
// gantry bridge, so that the machine is no more of a router than it was. The
// guard lists the instances that need it; the last one to leave takes it down
// and switches forwarding off again. A machine that forwards already is left
// as it is.
//
//	table ip gantry-guard {
//	  set instances { type ifname }
//	  chain forward { type filter hook forward priority filter + 10
//	    iifname "gn-*" accept
//	    oifname "gn-*" accept
//	    iifkind "bridge" oifkind "bridge" accept  # bridge-nf-call-iptables brings bridged frames here
//	    drop
//	  }
//	}
//
// A drop anywhere else holds as well: in nftables any base chain may veto. So
// where dockerd or an iptables firewall drops what it does not know, gantry's
// bridges get an accept in DOCKER-USER, the chain Docker keeps for others; for
// other firewalls [Fabric.Warnings] names the chain and what to add to it.

// From enum nft_meta_keys of linux/netfilter/nf_tables.h; x/sys/unix stops before.
const (
	metaIIFKIND expr.MetaKey = 26
	metaOIFKIND expr.MetaKey = 27
)

const (
	bridgePrefix = "gn-"
	guardName    = "gantry-guard"
)

func (k family) guardTable() *nftables.Table {
	return &nftables.Table{Family: k.nft, Name: guardName}
}

func (k family) guardSet(id uint32) *nftables.Set {
	return &nftables.Set{Table: k.guardTable(), ID: id, Name: "instances", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
}

// listeners is the set of links that took their routes from routers' messages
// and were told to go on with that: once a machine forwards IPv6 its links do
// not by themselves (Documentation/networking/ip-sysctl.rst, accept_ra).
func (k family) listeners(id uint32) *nftables.Set {
	return &nftables.Set{Table: k.guardTable(), ID: id, Name: "listeners", KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian}
}

// fromPrefix matches links by the beginning of their name.
func fromPrefix(key expr.MetaKey, prefix string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(prefix)},
	}
}

// ofKind matches links by what they are.
func ofKind(key expr.MetaKey, kind string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte(ifnameKey(kind))}, // 16 bytes, as names
	}
}

// joinHost lets packets of this instance be forwarded. The caller holds the
// machine's lock.
// was says that this instance stood in the guard before: then forwarding is on
// because of us, and no reason to do without one.
func joinHost(k family, tag string, was bool) (guards bool, _ error) {
	on, err := os.ReadFile("/proc/sys/" + k.forwarding)
	if err != nil {
		return false, fmt.Errorf("read %s: %w", k.forwarding, err)
	}
	c, err := dialNFT()
	if err != nil {
		return false, err
	}
	defer c.CloseLasting()
	forwards := strings.TrimSpace(string(on)) != "0"
	guarded, err := hasTable(c, k.nft, guardName)
	if err != nil {
		return false, err
	}
	if forwards && !guarded && !was {
		return false, acceptInDockerUser(c, k, bridgePrefix+tag)
	}
	t, set := k.guardTable(), k.guardSet(0)
	var listening []string
	if !guarded {
		set = k.guardSet(1)
		c.AddTable(t)
		if err := c.AddSet(set, nil); err != nil {
			return false, err
		}
		if k.nft == nftables.TableFamilyIPv6 {
			listening = listeners()
			ra := k.listeners(2)
			if err := c.AddSet(ra, nil); err != nil {
				return false, err
			}
			for _, l := range listening {
				if err := c.SetAddElements(ra, []nftables.SetElement{{Key: []byte(ifnameKey(l))}}); err != nil {
					return false, err
				}
			}
		}
		accept, late := nftables.ChainPolicyAccept, nftables.ChainPriority(10)
		ch := c.AddChain(&nftables.Chain{Name: "forward", Table: t, Type: nftables.ChainTypeFilter,
			Hooknum: nftables.ChainHookForward, Priority: &late, Policy: &accept})
		for _, e := range [][]expr.Any{
			exprs(fromPrefix(expr.MetaKeyIIFNAME, bridgePrefix), verdict(expr.VerdictAccept)),
			exprs(fromPrefix(expr.MetaKeyOIFNAME, bridgePrefix), verdict(expr.VerdictAccept)),
			exprs(ofKind(metaIIFKIND, "bridge"), ofKind(metaOIFKIND, "bridge"), verdict(expr.VerdictAccept)),
			verdict(expr.VerdictDrop),
		} {
			c.AddRule(&nftables.Rule{Table: t, Chain: ch, Exprs: e})
		}
	}
	if err := c.SetAddElements(set, []nftables.SetElement{{Key: []byte(ifnameKey(tag))}}); err != nil {
		return false, err
	}
	if err := c.Flush(); err != nil {
		return false, fmt.Errorf("write nftables table %s: %w", guardName, err)
	}
	if !forwards {
		for _, l := range listening {
			if err := writeSysctl("net/ipv6/conf/"+l+"/accept_ra", "2"); err != nil {
				return false, fmt.Errorf("keep %s listening to routers: %w", l, err)
			}
		}
		if err := writeSysctl(k.forwarding, "1"); err != nil {
			return false, fmt.Errorf("switch forwarding on: %w", err)
		}
	}
	return true, acceptInDockerUser(c, k, bridgePrefix+tag)
}

// listeners are the links that take routes from routers' messages.
func listeners() (links []string) {
	dirs, err := os.ReadDir("/proc/sys/net/ipv6/conf")
	if err != nil {
		return nil
	}
	for _, d := range dirs {
		b, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + d.Name() + "/accept_ra")
		own := d.Name() == "all" || d.Name() == "default" || d.Name() == "lo" || strings.HasPrefix(d.Name(), bridgePrefix) || strings.HasPrefix(d.Name(), vethPrefix)
		if err == nil && !own && strings.TrimSpace(string(b)) == "1" {
			links = append(links, d.Name())
		}
	}
	return links
}

// leaveHost undoes joinHost. The caller holds the machine's lock.
func leaveHost(k family, tag string) error {
	c, err := dialNFT()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	undone := removeFromDockerUser(c, k, bridgePrefix+tag)
	guarded, err := hasTable(c, k.nft, guardName)
	if err != nil || !guarded {
		return errors.Join(undone, err)
	}
	set := k.guardSet(0)
	members, err := c.GetSetElements(set)
	if err != nil {
		return errors.Join(undone, fmt.Errorf("read nftables table %s: %w", guardName, err))
	}
	own := []byte(ifnameKey(tag))
	left := slices.DeleteFunc(slices.Clone(members), func(e nftables.SetElement) bool { return bytes.Equal(e.Key, own) })
	if len(left) == 0 {
		// Forwarding first: there is no moment without a guard.
		if err := writeSysctl(k.forwarding, "0"); err != nil {
			return errors.Join(undone, fmt.Errorf("switch forwarding off: %w", err))
		}
		if k.nft == nftables.TableFamilyIPv6 {
			told, err := c.GetSetElements(k.listeners(0))
			if err != nil {
				return errors.Join(undone, fmt.Errorf("read nftables table %s: %w", guardName, err))
			}
			for _, l := range told { // a link that has gone meanwhile needs nothing
				_ = writeSysctl("net/ipv6/conf/"+strings.TrimRight(string(l.Key), "\x00")+"/accept_ra", "1")
			}
		}
		c.DelTable(k.guardTable())
	} else if len(left) < len(members) {
		if err := c.SetDeleteElements(set, []nftables.SetElement{{Key: own}}); err != nil {
			return err
		}
	}
	return errors.Join(undone, c.Flush())
}

func hasTable(c *nftables.Conn, of nftables.TableFamily, name string) (bool, error) {
	all, err := c.ListTablesOfFamily(of)
	if err != nil {
		return false, fmt.Errorf("list nftables tables: %w", err)
	}
	return slices.ContainsFunc(all, func(t *nftables.Table) bool { return t.Name == name }), nil
}

// dockerUser finds the chain Docker keeps for other people's rules.
func dockerUser(c *nftables.Conn, k family) (*nftables.Chain, error) {
	chains, err := c.ListChainsOfTableFamily(k.nft)
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	for _, ch := range chains {
		if ch.Table.Name == "filter" && ch.Name == "DOCKER-USER" {
			return ch, nil
		}
	}
	return nil, nil
}

// ownRule reports whether a rule is one that accepts links by their name, or
// the beginning of it.
func ownRule(r *nftables.Rule, links string) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		c, ok := e.(*expr.Cmp)
		return ok && string(c.Data) == links
	})
}

func acceptInDockerUser(c *nftables.Conn, k family, links string) error {
	ch, err := dockerUser(c, k)
	if ch == nil || err != nil {
		return err
	}
	return acceptIn(c, ch, links)
}

// acceptIn puts a rule at the head of a chain of somebody else that lets the
// links pass whose names begin so.
func acceptIn(c *nftables.Conn, ch *nftables.Chain, links string) error {
	rules, err := c.GetRules(ch.Table, ch)
	if err != nil {
		return fmt.Errorf("read chain %s: %w", ch.Name, err)
	}
	if slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return ownRule(r, links) }) {
		return nil
	}
	for _, key := range []expr.MetaKey{expr.MetaKeyIIFNAME, expr.MetaKeyOIFNAME} {
		c.InsertRule(&nftables.Rule{Table: ch.Table, Chain: ch, Exprs: exprs(
			fromPrefix(key, links), one(&expr.Counter{}), verdict(expr.VerdictAccept))})
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("accept bridges in chain %s: %w", ch.Name, err)
	}
	return nil
}

// guardChain is the guard's, nil where there is no guard.
func guardChain(c *nftables.Conn, k family) (*nftables.Chain, error) {
	has, err := hasTable(c, k.nft, guardName)
	if err != nil || !has {
		return nil, err
	}
	return &nftables.Chain{Name: "forward", Table: k.guardTable()}, nil
}

// admitNamed lets a bridge that does not bear our prefix pass the guard and
// Docker's firewall; expelNamed undoes it. The caller holds the machine's lock.
func admitNamed(k family, bridge string) error {
	c, err := dialNFT()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	guard, err := guardChain(c, k)
	if err == nil && guard != nil {
		err = acceptIn(c, guard, ifnameKey(bridge))
	}
	return errors.Join(err, acceptInDockerUser(c, k, ifnameKey(bridge)))
}

func expelNamed(k family, bridge string) error {
	c, err := dialNFT()
	if err != nil {
		return err
	}
	defer c.CloseLasting()
	guard, err := guardChain(c, k)
	if err == nil && guard != nil {
		err = removeFrom(c, guard, ifnameKey(bridge))
	}
	return errors.Join(err, removeFromDockerUser(c, k, ifnameKey(bridge)))
}

func removeFromDockerUser(c *nftables.Conn, k family, links string) error {
	ch, err := dockerUser(c, k)
	if ch == nil || err != nil {
		return err
	}
	return removeFrom(c, ch, links)
}

func removeFrom(c *nftables.Conn, ch *nftables.Chain, links string) error {
	rules, err := c.GetRules(ch.Table, ch)
	if err != nil {
		return fmt.Errorf("read chain %s: %w", ch.Name, err)
	}
	for _, r := range rules {
		if ownRule(r, links) {
			if err := c.DelRule(r); err != nil {
				return err
			}
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("remove rules from chain %s: %w", ch.Name, err)
	}
	return nil
}

// foreignDrops names the chains of other people that drop forwarded packets,
// of IPv6 if asked, and do not know this instance's bridges.
func foreignDrops(tag string, six bool) ([]string, error) {
	c, err := dialNFT()
	if err != nil {
		return nil, err
	}
	defer c.CloseLasting()
	chains, err := c.ListChains()
	if err != nil {
		return nil, fmt.Errorf("list nftables chains: %w", err)
	}
	docker, err := dockerUser(c, ipv4())
	if err != nil {
		return nil, err
	}
	docker6, err := dockerUser(c, ipv6())
	if err != nil {
		return nil, err
	}
	var found []string
	for _, ch := range chains {
		ip := ch.Table.Family == nftables.TableFamilyIPv4 || ch.Table.Family == nftables.TableFamilyINet || six && ch.Table.Family == nftables.TableFamilyIPv6
		if !ip || ch.Hooknum == nil || *ch.Hooknum != *nftables.ChainHookForward || strings.HasPrefix(ch.Table.Name, "gantry-") {
			continue
		}
		if slices.ContainsFunc([]*nftables.Chain{docker, docker6}, func(d *nftables.Chain) bool {
			return d != nil && ch.Table.Name == d.Table.Name && ch.Table.Family == d.Table.Family
		}) {
			continue // we have our rules there
		}
		rules, err := c.GetRules(ch.Table, ch)
		if err != nil {
			return nil, fmt.Errorf("read chain %s: %w", ch.Name, err)
		}
		if slices.ContainsFunc(rules, func(r *nftables.Rule) bool { return ownRule(r, bridgePrefix+tag) }) {
			continue
		}
		how := ""
		if ch.Policy != nil && *ch.Policy == nftables.ChainPolicyDrop {
			how = "its policy is drop"
		} else if n := len(rules); n > 0 && dropsAll(rules[n-1]) {
			how = "its last rule drops the rest"
		}
		if how == "" {
			continue
		}
		family := "ip"
		switch ch.Table.Family {
		case nftables.TableFamilyINet:
			family = "inet"
		case nftables.TableFamilyIPv6:
			family = "ip6"
		}
		at := fmt.Sprintf("%s %s %s", family, ch.Table.Name, ch.Name)
		found = append(found, fmt.Sprintf("nftables chain %q drops packets to and from containers (%s); add to it: "+
			"nft insert rule %s iifname \"%s*\" accept; nft insert rule %s oifname \"%s*\" accept",
			at, how, at, bridgePrefix+tag, at, bridgePrefix+tag))
	}
	return found, nil
}

// dropsAll reports whether a rule drops or rejects whatever reaches it.
func dropsAll(r *nftables.Rule) bool {
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log, *expr.Limit:
		case *expr.Reject:
			return true
		case *expr.Verdict:
			return e.Kind == expr.VerdictDrop
		default:
			return false
		}
	}
	return false
}
