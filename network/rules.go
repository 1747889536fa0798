package network

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The table of one instance, as nft would write it. Rules never change while
// the program runs; only the elements of its sets and maps do.
//
//	table ip gantry-<tag> {
//	  set bridges   { type ifname }                 every bridge of ours
//	  set internal  { type ifname }                 those of internal networks
//	  set masked    { type ifname }                 those that leave under the host's address
//	  set within    { type ifname . ifname }        each bridge with itself
//	  set published { type inet_proto . inet_service }
//	  set own       { type ipv4_addr . inet_proto . inet_service }   backends and the ports they publish
//	  set sticky    { type inet_proto . inet_service }
//	  set sticky_at { type ipv4_addr . inet_proto . inet_service }
//	  set virtual   { type ipv4_addr }              addresses of groups, see virtual.go
//	  map virtuals  { type ifname . ipv4_addr . mark : ipv4_addr }
//	  map others    { type ipv4_addr . ipv4_addr : ipv4_addr }       a backend, and a group of its own
//	  map slots     { type inet_proto . inet_service . mark : ipv4_addr . inet_service }
//	  map slots_at  { type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service }
//
//	  chain raw { type filter hook prerouting priority raw
//	    iifname != "lo" ip daddr 127.0.0.0/8 drop      # nobody outside owns loopback (CVE-2020-8558)
//	    iifname != "lo" ip saddr 127.0.0.0/8 drop
//	  }
//	  chain prerouting { type nat hook prerouting priority dstnat
//	    dnat to ip saddr . ip daddr map @others
//	    ip daddr @virtual dnat to iifname . ip daddr . numgen random mod 64 map @virtuals
//	    meta l4proto . th dport @published fib daddr type local goto publish
//	  }
//	  chain output     { type nat hook output priority dstnat
//	    meta l4proto … the same }
//	  chain input      { type filter hook input priority filter
//	    ip daddr @virtual reject                       # nobody is behind it, or it is not theirs
//	  }
//	  chain publish {
//	    ip saddr . meta l4proto . th dport @own return
//	    ip daddr . meta l4proto . th dport @sticky_at dnat to ip daddr . meta l4proto . th dport . jhash ip saddr mod 64 map @slots_at
//	    dnat to ip daddr . meta l4proto . th dport . numgen inc mod 64 map @slots_at
//	    meta l4proto . th dport @sticky dnat to meta l4proto . th dport . jhash ip saddr mod 64 map @slots
//	    dnat to meta l4proto . th dport . numgen inc mod 64 map @slots
//	  }
//	  chain forward { type filter hook forward priority filter
//	    iifname . oifname @within accept               # bridge-nf-call-iptables brings these here
//	    iifname @bridges ct state established,related accept
//	    oifname @bridges ct state established,related accept
//	    iifname @internal drop
//	    oifname @internal drop
//	    oifname @bridges ct status dnat accept         # came through a published port
//	    oifname @bridges drop                          # from outside, or from another network
//	  }
//	  chain postrouting { type nat hook postrouting priority srcnat
//	    oifname @bridges ip saddr 127.0.0.0/8 masquerade
//	    iifname . oifname @within ct status dnat masquerade   # routed back into the bridge it came from
//	    oifname @bridges return
//	    iifname @masked masquerade
//	  }
//	}
//
// A backend that calls its own published port gets no translation: the turn
// may lead to itself, and with bridge-nf-call-iptables such a packet is
// bridged, not routed, and a bridge sends nothing back by the port it came
// from. It reaches the holder's socket and so the proxy. A call to another
// sandbox of the same bridge arrives under the caller's address where that
// setting is on, and under the bridge's where it is off.
//
// Base chains accept by policy and drop by rule: a batch that replaces the
// table registers its new hooks before its rules take effect, and a policy of
// drop would bite for that moment.
const (
	setBridges   = "bridges"
	setInternal  = "internal"
	setMasked    = "masked"
	setWithin    = "within"
	setPublished = "published"
	setOwn       = "own"
	setSticky    = "sticky"
	setStickyAt  = "sticky_at"
	setVirtual   = "virtual"
	mapVirtual   = "virtuals"
	mapOthers    = "others"
	mapSlots     = "slots"
	mapSlotsAt   = "slots_at"
)

// The table of IPv6 has the same name and less in it: published ports reach
// sandboxes by IPv4 whatever the client speaks, so nothing is translated here.
//
//	table ip6 gantry-<tag> {
//	  sets bridges, internal, masked, within      as above, of the networks with IPv6
//	  chain forward { type filter hook forward priority filter … the same, but for "ct status dnat" }
//	  chain postrouting { type nat hook postrouting priority srcnat
//	    oifname @bridges return
//	    iifname @masked masquerade
//	  }
//	}

// family is what differs between IPv4 and IPv6.
type family struct {
	nft        nftables.TableFamily
	forwarding string // the sysctl
	guardFile  string // in the run directory, while we stand in the guard
	sets       func(*nftables.Table) []*nftables.Set
	rules      func(*nftables.Conn, *nftables.Table)
}

func ipv4() family {
	return family{nftables.TableFamilyIPv4, "net/ipv4/ip_forward", "guarded", sets, addTable}
}

func ipv6() family {
	return family{nftables.TableFamilyIPv6, "net/ipv6/conf/all/forwarding", "guarded6", linkSets, addTable6}
}

// linkSets are the sets of links, which both tables have.
func linkSets(t *nftables.Table) []*nftables.Set { return sets(t)[:4] }

// sets gives the table's sets and maps, with ids by which rules of the same
// batch refer to them.
func sets(t *nftables.Table) []*nftables.Set {
	port := nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService)
	slot := nftables.MustConcatSetType(nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark)
	slotAt := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeMark)
	portAt := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetProto, nftables.TypeInetService)
	to := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService)
	pair := nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIFName)
	addrs := nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeIPAddr)
	at := nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeIPAddr, nftables.TypeMark)
	return []*nftables.Set{
		{Table: t, ID: 1, Name: setBridges, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian},
		{Table: t, ID: 2, Name: setInternal, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian},
		{Table: t, ID: 3, Name: setMasked, KeyType: nftables.TypeIFName, KeyByteOrder: binaryutil.NativeEndian},
		{Table: t, ID: 4, Name: setWithin, KeyType: pair, Concatenation: true},
		{Table: t, ID: 5, Name: setPublished, KeyType: port, Concatenation: true},
		{Table: t, ID: 6, Name: setOwn, KeyType: portAt, Concatenation: true},
		{Table: t, ID: 7, Name: setSticky, KeyType: port, Concatenation: true},
		{Table: t, ID: 8, Name: setStickyAt, KeyType: portAt, Concatenation: true},
		{Table: t, ID: 9, Name: mapSlots, KeyType: slot, DataType: to, Concatenation: true, IsMap: true},
		{Table: t, ID: 10, Name: mapSlotsAt, KeyType: slotAt, DataType: to, Concatenation: true, IsMap: true},
		{Table: t, ID: 11, Name: setVirtual, KeyType: nftables.TypeIPAddr},
		{Table: t, ID: 12, Name: mapVirtual, KeyType: at, DataType: nftables.TypeIPAddr, Concatenation: true, IsMap: true},
		{Table: t, ID: 13, Name: mapOthers, KeyType: addrs, DataType: nftables.TypeIPAddr, Concatenation: true, IsMap: true},
	}
}

// Keys and values as the kernel holds them: every field of a concatenation
// fills whole registers of four bytes.

func ifnameKey(name string) string {
	var b [unix.IFNAMSIZ]byte
	copy(b[:], name)
	return string(b[:])
}

// at is the key's address, for maps of ports on one address; the zero address
// is for the others and adds nothing.
func portKey(at netip.Addr, proto byte, port uint16) string {
	return addrKey(at) + string([]byte{proto, 0, 0, 0, byte(port >> 8), byte(port), 0, 0})
}

// slotKey ends in the slot as a number in the machine's byte order, as numgen
// leaves it in its register.
func slotKey(at netip.Addr, proto byte, port uint16, slot int) string {
	return portKey(at, proto, port) + string(binaryutil.NativeEndian.PutUint32(uint32(slot)))
}

// virtualKey is slotKey for a virtual address on a bridge.
func virtualKey(bridge string, a netip.Addr, slot int) string {
	return ifnameKey(bridge) + addrKey(a) + string(binaryutil.NativeEndian.PutUint32(uint32(slot)))
}

func addrKey(a netip.Addr) string { return string(a.AsSlice()) }

func target(a netip.Addr, port uint16) string {
	return addrKey(a) + string([]byte{byte(port >> 8), byte(port), 0, 0})
}

// Registers of four bytes; NFT_REG_1 covers the first four of them.
const (
	r0 = unix.NFT_REG32_00 + iota
	r1
	r2
	r3
	r4
	r5
	r6
	r7
	r8
	r9
)

// exprs strings parts of a rule together.
func exprs(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func one(e expr.Any) []expr.Any { return []expr.Any{e} }

func in(set string, reg uint32) []expr.Any {
	return one(&expr.Lookup{SourceRegister: reg, SetName: set})
}

func iifname(reg uint32) []expr.Any {
	return one(&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: reg})
}

func oifname(reg uint32) []expr.Any {
	return one(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: reg})
}

func verdict(k expr.VerdictKind) []expr.Any { return one(&expr.Verdict{Kind: k}) }

// notLoopback matches packets that came in by a real link.
func notLoopback() []expr.Any {
	return append(iifname(r0), &expr.Cmp{Op: expr.CmpOpNeq, Register: r0, Data: []byte(ifnameKey("lo"))})
}

// of127 matches 127.0.0.0/8 at an offset of the IP header: 12 is the source,
// 16 the destination.
func of127(offset uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: r0, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: []byte{127}},
	}
}

// ctHas matches connections with any of the given bits of a conntrack field.
func ctHas(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: key, Register: r0},
		&expr.Bitwise{SourceRegister: r0, DestRegister: r0, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: r0, Data: make([]byte, 4)},
	}
}

// ctStatusDNAT is IPS_DST_NAT of linux/netfilter/nf_conntrack_common.h.
const ctStatusDNAT = 1 << 5

// protoPort loads the transport protocol and the destination port.
func protoPort(proto, port uint32) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: proto},
		&expr.Payload{DestRegister: port, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
}

// inTurn gives connections the slots one after the other.
func inTurn(slot uint32) []expr.Any {
	return one(&expr.Numgen{Register: slot, Modulus: slots, Type: unix.NFT_NG_INCREMENTAL})
}

// bySource gives connections the slot of their client's address. The seed is
// fixed, so that a table that is replaced does the same.
func bySource(slot, source uint32) []expr.Any {
	return append(ipField(12, source),
		&expr.Hash{SourceRegister: source, DestRegister: slot, Length: 4, Modulus: slots, Seed: 0x67616e74, Type: expr.HashTypeJenkins})
}

// dnat translates by a map whose key begins at register key and ends in the
// slot.
func dnat(slotMap string, key uint32) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: key, DestRegister: r8, IsDestRegSet: true, SetName: slotMap},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: r8, RegProtoMin: r9},
	}
}

// dnatAddr translates by a map whose key begins at register key; the port stays.
func dnatAddr(addrMap string, key uint32) []expr.Any {
	return []expr.Any{
		&expr.Lookup{SourceRegister: key, DestRegister: r8, IsDestRegSet: true, SetName: addrMap},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: r8},
	}
}

// atRandom gives connections any slot. Taking turns would not be fair here,
// since all virtual addresses together take them.
func atRandom(slot uint32) []expr.Any {
	return one(&expr.Numgen{Register: slot, Modulus: slots, Type: unix.NFT_NG_RANDOM})
}

// ipField loads an address of the IP header: 12 is the source, 16 the
// destination.
func ipField(offset, reg uint32) []expr.Any {
	return one(&expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4})
}

// builder puts the static part of a table into a batch.
type builder struct {
	c *nftables.Conn
	t *nftables.Table
}

func (b builder) begin(all []*nftables.Set) {
	b.c.AddTable(b.t)
	for _, s := range all {
		_ = b.c.AddSet(s, nil) // fails on malformed sets only; Flush would say so
	}
}

func (b builder) base(name string, kind nftables.ChainType, hook *nftables.ChainHook, prio *nftables.ChainPriority) *nftables.Chain {
	accept := nftables.ChainPolicyAccept
	return b.c.AddChain(&nftables.Chain{Name: name, Table: b.t, Type: kind, Hooknum: hook, Priority: prio, Policy: &accept})
}

func (b builder) rule(ch *nftables.Chain, parts ...[]expr.Any) {
	b.c.AddRule(&nftables.Rule{Table: b.t, Chain: ch, Exprs: exprs(parts...)})
}

// forward says who may talk to whom; translated tells connections that came
// through a published port, nil where there are none.
func (b builder) forward(translated []expr.Any) {
	drop, acc := verdict(expr.VerdictDrop), verdict(expr.VerdictAccept)
	forward := b.base("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	known := ctHas(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
	b.rule(forward, iifname(r0), oifname(r4), in(setWithin, r0), acc)
	b.rule(forward, iifname(r0), in(setBridges, r0), known, acc)
	b.rule(forward, oifname(r0), in(setBridges, r0), known, acc)
	b.rule(forward, iifname(r0), in(setInternal, r0), drop)
	b.rule(forward, oifname(r0), in(setInternal, r0), drop)
	if translated != nil {
		b.rule(forward, oifname(r0), in(setBridges, r0), translated, acc)
	}
	b.rule(forward, oifname(r0), in(setBridges, r0), drop)
}

func addTable6(c *nftables.Conn, t *nftables.Table) {
	b := builder{c, t}
	b.begin(linkSets(t))
	b.forward(nil)
	post := b.base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	b.rule(post, oifname(r0), in(setBridges, r0), verdict(expr.VerdictReturn))
	b.rule(post, iifname(r0), in(setMasked, r0), one(&expr.Masq{}))
}

func addTable(c *nftables.Conn, t *nftables.Table) {
	b := builder{c, t}
	b.begin(sets(t))
	base, rule := b.base, b.rule
	drop := verdict(expr.VerdictDrop)

	raw := base("raw", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, nftables.ChainPriorityRaw)
	rule(raw, notLoopback(), of127(16), drop)
	rule(raw, notLoopback(), of127(12), drop)

	publish := c.AddChain(&nftables.Chain{Name: "publish", Table: t})
	rule(publish, ipField(12, r0), protoPort(r1, r2), in(setOwn, r0), verdict(expr.VerdictReturn))
	rule(publish, ipField(16, r0), protoPort(r1, r2), in(setStickyAt, r0), bySource(r3, r4), dnat(mapSlotsAt, r0))
	rule(publish, ipField(16, r0), protoPort(r1, r2), inTurn(r3), dnat(mapSlotsAt, r0))
	rule(publish, protoPort(r0, r1), in(setSticky, r0), bySource(r2, r3), dnat(mapSlots, r0))
	rule(publish, protoPort(r0, r1), inTurn(r2), dnat(mapSlots, r0))

	local := []expr.Any{
		&expr.Fib{Register: r0, ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r0, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
	pre := base("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)
	rule(pre, ipField(12, r0), ipField(16, r1), dnatAddr(mapOthers, r0))
	rule(pre, ipField(16, r4), in(setVirtual, r4), iifname(r0), atRandom(r5), dnatAddr(mapVirtual, r0))
	for _, ch := range []*nftables.Chain{
		pre,
		base("output", nftables.ChainTypeNAT, nftables.ChainHookOutput, nftables.ChainPriorityNATDest),
	} {
		rule(ch, protoPort(r0, r1), in(setPublished, r0), local,
			one(&expr.Verdict{Kind: expr.VerdictGoto, Chain: publish.Name}))
	}

	input := base("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	rule(input, ipField(16, r0), in(setVirtual, r0), one(&expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3})) // port unreachable

	b.forward(ctHas(expr.CtKeySTATUS, ctStatusDNAT))

	post := base("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	masquerade := one(&expr.Masq{})
	rule(post, oifname(r0), in(setBridges, r0), of127(12), masquerade)
	rule(post, iifname(r0), oifname(r4), in(setWithin, r0), ctHas(expr.CtKeySTATUS, ctStatusDNAT), masquerade)
	rule(post, oifname(r0), in(setBridges, r0), verdict(expr.VerdictReturn))
	rule(post, iifname(r0), in(setMasked, r0), masquerade)
}
