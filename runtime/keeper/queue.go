package keeper

import "sync"

// eventQueue is a channel that never makes its writer wait: the keeper's
// answers come through the same reader as its events.
type eventQueue struct {
	out  chan Event
	stop chan struct{}
	wg   sync.WaitGroup

	mu     sync.Mutex
	items  []Event
	wake   chan struct{}
	closed bool
}

func newEventQueue() *eventQueue {
	q := &eventQueue{out: make(chan Event), stop: make(chan struct{}), wake: make(chan struct{}, 1)}
	q.wg.Go(q.run)
	return q
}

func (q *eventQueue) add(e Event) {
	q.mu.Lock()
	q.items = append(q.items, e)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *eventQueue) run() {
	defer close(q.out)
	for {
		select {
		case <-q.wake:
		case <-q.stop:
			return
		}
		q.mu.Lock()
		items := q.items
		q.items = nil
		q.mu.Unlock()
		for _, e := range items {
			select {
			case q.out <- e:
			case <-q.stop:
				return
			}
		}
	}
}

// close ends the channel; what was not read is dropped.
func (q *eventQueue) close() {
	q.mu.Lock()
	closed := q.closed
	q.closed = true
	q.mu.Unlock()
	if !closed {
		close(q.stop)
	}
	q.wg.Wait()
}
