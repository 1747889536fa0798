package runtime

import (
	"context"
	"sync"
)

// uses keeps an image or a volume from being removed between the moment a
// creation has found it and the moment the new container is known. Whoever
// creates claims what it is about to use; whoever removes marks it as leaving
// first. Of two for the same object one comes first, and the other waits or is
// refused.
type uses struct {
	mu      sync.Mutex
	claims  map[object]int
	leaving map[object]chan struct{}
}

// object is something containers use.
type object struct{ kind, name string }

func imageOf(id string) object    { return object{"image", id} }
func volumeOf(name string) object { return object{"volume", name} }

func newUses() *uses {
	return &uses{claims: map[object]int{}, leaving: map[object]chan struct{}{}}
}

// claim waits until o is not leaving and claims it.
func (u *uses) claim(ctx context.Context, o object) error {
	for {
		u.mu.Lock()
		gone := u.leaving[o]
		if gone == nil {
			u.claims[o]++
			u.mu.Unlock()
			return nil
		}
		u.mu.Unlock()
		select {
		case <-gone:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (u *uses) unclaim(o object) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.claims[o]--; u.claims[o] <= 0 {
		delete(u.claims, o)
	}
}

// leave marks o as leaving until done is called, after whoever else does so. ok
// is false, and nothing is marked, when somebody has claimed it.
func (u *uses) leave(o object) (done func(), ok bool) {
	for {
		u.mu.Lock()
		other := u.leaving[o]
		if other == nil {
			break
		}
		u.mu.Unlock()
		<-other
	}
	defer u.mu.Unlock()
	if u.claims[o] > 0 {
		return nil, false
	}
	gone := make(chan struct{})
	u.leaving[o] = gone
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		delete(u.leaving, o)
		close(gone)
	}, true
}
