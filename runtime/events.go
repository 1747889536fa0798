package runtime

import (
	"context"
	"maps"
	"strconv"
	"sync"
	"time"

	"gantry/runtime/spec"
)

// The bus keeps this many past events for those who ask with Since, and lets a
// subscriber fall this far behind before it is cut off: a reader that does not
// read must not grow the daemon.
const (
	pastEvents  = 1024
	lagOfEvents = 1024
)

// bus hands every event to every subscriber, in one order.
type bus struct {
	mu   sync.Mutex
	past []Event // ring
	next int     // where the ring is written
	subs map[*subscriber]struct{}
}

type subscriber struct {
	events chan Event
	lost   chan struct{} // closed when it fell behind
}

func newBus() *bus { return &bus{subs: map[*subscriber]struct{}{}} }

func (b *bus) publish(e Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e.Time.IsZero() {
		e.Time = time.Now() // in here, so that their order is that of their times
	}
	if len(b.past) < pastEvents {
		b.past = append(b.past, e)
	} else {
		b.past[b.next] = e
	}
	b.next = (b.next + 1) % pastEvents
	for s := range b.subs {
		select {
		case s.events <- e:
		default:
			close(s.lost)
			delete(b.subs, s)
		}
	}
}

// subscribe returns what happened since and a subscription to all that follows,
// without a gap between them.
func (b *bus) subscribe(since time.Time) ([]Event, *subscriber) {
	s := &subscriber{events: make(chan Event, lagOfEvents), lost: make(chan struct{})}
	b.mu.Lock()
	defer b.mu.Unlock()
	var past []Event
	if !since.IsZero() {
		for i := range b.past {
			// Once the ring is full its oldest event stands where the next is written.
			e := b.past[(b.oldest()+i)%len(b.past)]
			if !e.Time.Before(since) {
				past = append(past, e)
			}
		}
	}
	b.subs[s] = struct{}{}
	return past, s
}

// rest tells what had happened until then and waits to be told.
func (s *subscriber) rest(until time.Time, each func(Event) error) error {
	for {
		select {
		case ev := <-s.events:
			if ev.Time.After(until) {
				return nil
			}
			if err := each(ev); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

func (b *bus) oldest() int {
	if len(b.past) < pastEvents {
		return 0
	}
	return b.next
}

func (b *bus) unsubscribe(s *subscriber) {
	b.mu.Lock()
	delete(b.subs, s)
	b.mu.Unlock()
}

// EventQuery selects events by time. The zero value means from now on, for ever.
type EventQuery struct {
	Since, Until time.Time
}

// Events calls each for every event of the query in order, until ctx ends, the
// query is answered, each fails, or the caller has fallen too far behind.
func (e *Engine) Events(ctx context.Context, q EventQuery, each func(Event) error) error {
	past, sub := e.bus.subscribe(q.Since)
	defer e.bus.unsubscribe(sub)
	for _, ev := range past {
		if !q.Until.IsZero() && ev.Time.After(q.Until) {
			return nil
		}
		if err := each(ev); err != nil {
			return err
		}
	}
	var until <-chan time.Time
	if !q.Until.IsZero() {
		t := time.NewTimer(time.Until(q.Until))
		defer t.Stop()
		until = t.C
	}
	for {
		select {
		case ev := <-sub.events:
			if !q.Until.IsZero() && ev.Time.After(q.Until) {
				return nil
			}
			if err := each(ev); err != nil {
				return err
			}
		case <-sub.lost:
			return errSlowReader
		case <-until:
			return sub.rest(q.Until, each)
		case <-ctx.Done():
			return ctx.Err()
		case <-e.closing:
			return nil
		}
	}
}

// emit publishes a container's event with the attributes Docker's clients read:
// its labels, name and image, and more.
func (e *Engine) emit(c Container, action string, more map[string]string) {
	attrs := make(map[string]string, len(c.Config.Labels)+len(more)+2)
	maps.Copy(attrs, c.Config.Labels)
	attrs["name"], attrs["image"] = c.Name, c.Config.Image
	maps.Copy(attrs, more)
	e.bus.publish(Event{Type: "container", Action: action, ID: c.ID, Attributes: attrs})
}

// emitJoined tells of the networks a container is put on at its start, or
// taken off at its end, and emitMounted of its volumes. Docker's clients hear
// of both each time.
func (e *Engine) emitJoined(c Container, verb string) {
	for _, j := range c.Networks {
		kind := ""
		if n, err := e.Fabric.Network(j.NetworkID); err == nil {
			kind = n.Driver
		}
		e.emitObject("network", verb, j.NetworkID, map[string]string{"container": c.ID, "name": j.NetworkName, "type": kind})
	}
}

func (e *Engine) emitMounted(c Container, verb string) {
	for _, m := range c.Mounts {
		if m.Type != spec.MountVolume {
			continue
		}
		attrs := map[string]string{"container": c.ID, "driver": m.Driver}
		if verb == "mount" {
			attrs["destination"], attrs["propagation"] = m.Destination, m.Propagation
			attrs["read/write"] = strconv.FormatBool(!m.ReadOnly)
		}
		e.emitObject("volume", verb, m.Name, attrs)
	}
}

func (e *Engine) emitObject(kind, action, id string, attrs map[string]string) {
	e.bus.publish(Event{Type: kind, Action: action, ID: id, Attributes: attrs})
}
