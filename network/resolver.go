package network

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	forwardTimeout = 4 * time.Second // for one question; glibc and musl wait 5 s
	forwardResend  = time.Second     // until an unanswered datagram is sent again
	forwardGrace   = 300 * time.Millisecond
	forwardPending = 256 // questions outstanding for all sandboxes together,
	forwardShare   = 8   // but so many each sandbox may have, whatever the others do
)

// forwarder asks other resolvers. It sends a question to all servers of a list
// at the same time, asks once for all who want to know the same, and keeps
// what it learns for as long as the answer allows.
//
// The first answer with records wins. "There is no such thing" from a server
// waits up to forwardGrace for those named before it: in a list of a
// company's resolver and a public one, the second knows nothing of the first
// one's names, and would often be faster to say so.
type forwarder struct {
	cache   *dnsCache
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex
	calls map[dnsKey]*dnsCall
}

// resolvers are the servers that a sandbox's questions go to.
type resolvers struct {
	list []netip.AddrPort
	// Of a list with loopback addresses, which mean the sandbox's own: whose it
	// is, and how to run something there.
	of     string
	within func(func() error) error
}

// dnsKey is everything an answer depends on.
type dnsKey struct {
	name    string // in lower case
	qtype   uint16
	qclass  uint16
	do, cd  bool   // DNSSEC records wanted, unchecked ones allowed
	servers string // the list that was asked, and by whom if that matters
}

// dnsCall is a question on its way.
type dnsCall struct {
	done chan struct{} // closed when wire is there
	wire []byte        // the answer as it came; nil: nobody gave one
}

func newForwarder(now func() time.Time) *forwarder {
	f := &forwarder{cache: newDNSCache(now), calls: map[dnsKey]*dnsCall{}}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

func (f *forwarder) close() {
	f.mu.Lock()
	f.cancel() // under the lock: no call begins after it
	f.mu.Unlock()
	f.running.Wait()
}

func keyOf(q *dns.Msg, r resolvers) dnsKey {
	k := dnsKey{name: fold(q.Question[0].Name), qtype: q.Question[0].Qtype, qclass: q.Question[0].Qclass, cd: q.CheckingDisabled}
	if opt := q.IsEdns0(); opt != nil {
		k.do = opt.Do()
	}
	b := []byte(r.of)
	for _, s := range r.list {
		b = append(s.AppendTo(b), ' ')
	}
	k.servers = string(b)
	return k
}

// cached gives the reply that is already known, or nil.
func (f *forwarder) cached(q *dns.Msg, r resolvers) *dns.Msg {
	wire, age, ok := f.cache.get(keyOf(q, r))
	if !ok {
		return nil
	}
	return forwardReply(q, wire, age)
}

// ask gives the reply to q: what the servers say, or SERVFAIL. It is nil only
// when ctx ended first. own is how many questions the sandbox has outstanding,
// this one included.
func (f *forwarder) ask(ctx context.Context, q *dns.Msg, r resolvers, own int) *dns.Msg {
	k := keyOf(q, r)
	if wire, age, ok := f.cache.get(k); ok {
		return forwardReply(q, wire, age)
	}
	f.mu.Lock()
	c := f.calls[k]
	if c == nil {
		full := len(f.calls) >= forwardPending && own > forwardShare
		if full || f.ctx.Err() != nil || len(r.list) == 0 {
			f.mu.Unlock()
			return replyTo(q, dns.RcodeServerFailure)
		}
		c = &dnsCall{done: make(chan struct{})}
		f.calls[k] = c
		r.list = slices.Clone(r.list)
		question := q.Question[0]
		f.running.Go(func() {
			c.wire = f.race(question, k, r)
			f.cache.put(k, c.wire)
			f.mu.Lock()
			delete(f.calls, k)
			f.mu.Unlock()
			close(c.done)
		})
	}
	f.mu.Unlock()
	select {
	case <-c.done:
		return forwardReply(q, c.wire, 0)
	case <-ctx.Done():
		return nil
	}
}

// forwardReply makes the reply to q out of a server's answer that is so old.
func forwardReply(q *dns.Msg, wire []byte, age time.Duration) *dns.Msg {
	m := replyTo(q, dns.RcodeServerFailure)
	a := new(dns.Msg)
	if wire == nil || a.Unpack(wire) != nil {
		return m
	}
	m.Rcode, m.Truncated = a.Rcode, a.Truncated
	m.AuthenticatedData = a.AuthenticatedData
	m.Answer, m.Ns = a.Answer, a.Ns
	old := uint32(age / time.Second)
	for _, rr := range a.Extra {
		if rr.Header().Rrtype != dns.TypeOPT { // speaks of the way between the server and us
			m.Extra = append(m.Extra, rr)
		}
	}
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			if h := rr.Header(); h.Rrtype != dns.TypeOPT {
				h.Ttl -= min(h.Ttl, old)
			}
		}
	}
	return m
}

// answered is what one server said.
type answered struct {
	server int
	wire   []byte
	msg    *dns.Msg
	err    error
}

func (a answered) negative() bool { return a.msg.Rcode != dns.RcodeSuccess || len(a.msg.Answer) == 0 }

// race asks all servers and gives the answer to go by, nil if there is none.
func (f *forwarder) race(question dns.Question, k dnsKey, r resolvers) []byte {
	ctx, cancel := context.WithTimeout(f.ctx, forwardTimeout)
	var asking sync.WaitGroup
	defer asking.Wait()
	defer cancel() // before the wait: ends the slower ones
	answers := make(chan answered, len(r.list))
	for i, server := range r.list {
		asking.Go(func() {
			a := answered{server: i}
			a.wire, a.msg, a.err = exchange(ctx, r.way(server), question, k)
			answers <- a
		})
	}
	var no *answered // the best "there is no such thing"
	silent := map[int]bool{}
	for i := range r.list {
		silent[i] = true
	}
	var grace <-chan time.Time
	for len(silent) > 0 {
		select {
		case a := <-answers:
			delete(silent, a.server)
			if a.err == nil && !a.negative() {
				return a.wire
			}
			if a.err == nil && (no == nil || a.server < no.server) {
				no = &a
			}
		case <-grace:
			return no.wire
		}
		if no == nil {
			continue
		}
		first := true
		for i := range silent {
			first = first && i > no.server
		}
		if first {
			return no.wire
		}
		if grace == nil {
			t := time.NewTimer(forwardGrace)
			defer t.Stop()
			grace = t.C
		}
	}
	return nil
}

// way is how to reach a server.
type way struct {
	server netip.AddrPort
	within func(func() error) error // nil: from the host's namespace
}

func (r resolvers) way(server netip.AddrPort) way {
	w := way{server: server}
	if server.Addr().IsLoopback() {
		w.within = r.within
	}
	return w
}

// dial opens a socket in the namespace the way begins in, where it stays.
func (w way) dial(ctx context.Context, network string) (c net.Conn, err error) {
	var dialer net.Dialer
	if w.within == nil {
		return dialer.DialContext(ctx, network, w.server.String())
	}
	err = w.within(func() (err error) {
		c, err = dialer.DialContext(ctx, network, w.server.String())
		return err
	})
	if err != nil && c != nil { // the thread did not come home
		c.Close()
	}
	return c, err
}

// exchange asks one server, by datagram and, if the answer does not fit into
// one, by TCP. Any answer but "it is so" and "there is no such thing" is an
// error.
func exchange(ctx context.Context, to way, question dns.Question, k dnsKey) ([]byte, *dns.Msg, error) {
	q := new(dns.Msg)
	q.RecursionDesired = true
	q.CheckingDisabled = k.cd
	q.Question = []dns.Question{question}
	q.SetEdns0(dnsAdvertise, k.do)
	wire, m, err := exchangeOver(ctx, "udp", to, q)
	if err == nil && (m.Rcode == dns.RcodeFormatError || m.Rcode == dns.RcodeNotImplemented) && !k.do {
		q.Extra = nil // a server that does not know EDNS (RFC 6891, 7)
		wire, m, err = exchangeOver(ctx, "udp", to, q)
	}
	if err != nil {
		return nil, nil, err
	}
	if m.Truncated {
		if w, full, err := exchangeOver(ctx, "tcp", to, q); err == nil {
			wire, m = w, full
		}
	}
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return nil, nil, fmt.Errorf("%s answers %s", to.server, dns.RcodeToString[m.Rcode])
	}
	return wire, m, nil
}

// exchangeOver sends q with an id (and, over UDP, a port) of its own and waits
// for the answer to it.
func exchangeOver(ctx context.Context, network string, to way, q *dns.Msg) ([]byte, *dns.Msg, error) {
	q.Id = uint16(rand.Uint32())
	wire, err := q.Pack()
	if err != nil {
		return nil, nil, err
	}
	c, err := to.dial(ctx, network)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	if network == "tcp" {
		return exchangeTCP(c, wire, q)
	}
	buf := make([]byte, 4096) // more than we said we take: some do not listen
	for {
		if _, err := c.Write(wire); err != nil {
			return nil, nil, err
		}
		_ = c.SetReadDeadline(time.Now().Add(forwardResend))
		for {
			n, err := c.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() == nil {
				break // lost on the way, it seems
			}
			if err != nil {
				return nil, nil, err
			}
			if m := answerTo(q, buf[:n]); m != nil {
				return bytes.Clone(buf[:n]), m, nil
			}
		}
	}
}

func exchangeTCP(c net.Conn, wire []byte, q *dns.Msg) ([]byte, *dns.Msg, error) {
	if _, err := c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)); err != nil {
		return nil, nil, err
	}
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return nil, nil, err
	}
	buf := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, buf); err != nil {
		return nil, nil, err
	}
	if m := answerTo(q, buf); m != nil {
		return buf, m, nil
	}
	return nil, nil, errors.New("the answer is to another question")
}

// answerTo understands a packet if it is an answer to q. Anything else may be
// late, or forged.
func answerTo(q *dns.Msg, packet []byte) *dns.Msg {
	if len(packet) < 12 || binary.BigEndian.Uint16(packet) != q.Id || packet[2]&0x80 == 0 {
		return nil
	}
	m := new(dns.Msg)
	if m.Unpack(packet) != nil {
		if !m.Truncated { // cut within a record: all that matters is that it was cut
			return nil
		}
		m.Answer, m.Ns, m.Extra = nil, nil, nil
	}
	if len(m.Question) == 0 && m.Rcode == dns.RcodeFormatError {
		return m
	}
	if len(m.Question) != 1 || m.Question[0].Qtype != q.Question[0].Qtype || m.Question[0].Qclass != q.Question[0].Qclass ||
		!strings.EqualFold(m.Question[0].Name, q.Question[0].Name) {
		return nil
	}
	return m
}

// hostResolvers reads the resolvers in a resolv.conf, anew whenever the file
// has changed.
type hostResolvers struct {
	path string

	mu   sync.Mutex
	seen os.FileInfo
	list []netip.AddrPort
}

// servers gives the first three resolvers, as many as the C library asks;
// none if the file is not there.
func (h *hostResolvers) servers() []netip.AddrPort {
	h.mu.Lock()
	defer h.mu.Unlock()
	info, err := os.Stat(h.path)
	if err != nil {
		h.seen, h.list = nil, nil
		return nil
	}
	if h.seen != nil && os.SameFile(h.seen, info) && h.seen.ModTime().Equal(info.ModTime()) && h.seen.Size() == info.Size() {
		return h.list
	}
	data, err := os.ReadFile(h.path)
	if err != nil {
		h.seen, h.list = nil, nil
		return nil
	}
	h.seen, h.list = info, parseResolvers(data)
	return h.list
}

func parseResolvers(data []byte) (list []netip.AddrPort) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() && len(list) < 3 {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if a, err := netip.ParseAddr(fields[1]); err == nil {
			list = append(list, netip.AddrPortFrom(a, 53))
		}
	}
	return list
}
