package network

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	cacheEntries  = 2048             // answers kept; about 1 MB when full
	cacheLargest  = 4096             // bytes of one: larger ones are not kept
	cacheLongest  = 10 * time.Minute // whatever an answer's TTL says
	cacheNegative = 30 * time.Second // "there is no such thing", whatever its SOA says
	cacheFailed   = time.Second      // nobody answered: musl asks again at once, many times
)

// dnsCache keeps answers of other resolvers as they came.
type dnsCache struct {
	now func() time.Time

	mu      sync.Mutex
	entries map[dnsKey]cachedAnswer
}

type cachedAnswer struct {
	wire           []byte
	stored, expire time.Time
}

func newDNSCache(now func() time.Time) *dnsCache {
	return &dnsCache{now: now, entries: map[dnsKey]cachedAnswer{}}
}

// get gives an answer that still holds. A nil wire is also one: nobody
// answered a moment ago.
func (c *dnsCache) get(k dnsKey) (wire []byte, age time.Duration, ok bool) {
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[k]
	if !ok {
		return nil, 0, false
	}
	if !now.Before(e.expire) {
		delete(c.entries, k)
		return nil, 0, false
	}
	return e.wire, now.Sub(e.stored), true
}

func (c *dnsCache) put(k dnsKey, wire []byte) {
	keep := keepFor(wire)
	if keep <= 0 || len(wire) > cacheLargest {
		return
	}
	now := c.now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.entries[k]; !ok && len(c.entries) >= cacheEntries {
		c.evict(now)
	}
	c.entries[k] = cachedAnswer{wire, now, now.Add(keep)}
}

// evict makes room: of a few entries picked by the map's own disorder, those
// that have expired, or else the one that expires first.
func (c *dnsCache) evict(now time.Time) {
	var victim dnsKey
	var soonest time.Time
	n := 0
	for k, e := range c.entries {
		if !now.Before(e.expire) {
			delete(c.entries, k)
		}
		if soonest.IsZero() || e.expire.Before(soonest) {
			victim, soonest = k, e.expire
		}
		if n++; n == 16 {
			break
		}
	}
	delete(c.entries, victim)
}

// keepFor says how long an answer may be kept (RFC 2308 for the negative ones).
func keepFor(wire []byte) time.Duration {
	if wire == nil {
		return cacheFailed
	}
	m := new(dns.Msg)
	if m.Unpack(wire) != nil || m.Truncated {
		return 0
	}
	if m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 {
		keep := cacheLongest
		for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
			for _, rr := range section {
				if h := rr.Header(); h.Rrtype != dns.TypeOPT {
					keep = min(keep, time.Duration(h.Ttl)*time.Second)
				}
			}
		}
		return keep
	}
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			return min(cacheNegative, time.Duration(min(soa.Hdr.Ttl, soa.Minttl))*time.Second)
		}
	}
	return 0 // without an SOA it must not be kept
}
