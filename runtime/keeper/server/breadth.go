package server

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// breadth is how many processors Go code of the keeper may have at a time: all
// while containers are made or much is written, and one for a health check
// every now and then. With more than one, every goroutine that becomes ready
// wakes another thread to look for more of them, which costs a third of all a
// health check takes.
type breadth struct {
	pieces atomic.Int64 // of output that were moved

	mu    sync.Mutex
	all   int
	wide  bool
	rest  *time.Timer
	since time.Time // of the last piecesMany pieces
}

const (
	wideTime = 2 * time.Second // stays wide after the last call
	// So many pieces of output within manyTime are a tenth of a processor's work.
	piecesMany = 1 << 10
	manyTime   = 200 * time.Millisecond
)

// open makes it narrow.
func (b *breadth) open() {
	b.all = runtime.GOMAXPROCS(1)
	b.rest = time.AfterFunc(time.Hour, b.narrow)
}

// widen is for what has much to do.
func (b *breadth) widen() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.rest.Reset(wideTime)
	if !b.wide {
		b.wide = true
		runtime.GOMAXPROCS(b.all)
	}
}

func (b *breadth) narrow() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wide {
		b.wide = false
		runtime.GOMAXPROCS(1)
	}
}

// moved counts a piece of output.
func (b *breadth) moved() {
	if b.pieces.Add(1)%piecesMany != 0 {
		return
	}
	b.mu.Lock()
	last := b.since
	b.since = time.Now()
	b.mu.Unlock()
	if time.Since(last) < manyTime {
		b.widen()
	}
}
