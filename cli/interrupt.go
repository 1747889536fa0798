package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// interrupts hears the signals that ask the program to end. Unless a command
// takes them over, the first cancels what runs and the second ends the program
// on the spot.
type interrupts struct {
	signals chan os.Signal
	done    chan struct{}

	mu      sync.Mutex
	taker   chan<- os.Signal
	restore map[int]func() // what must be put right before the program ends
	next    int
}

func watchInterrupts(cancel context.CancelFunc) *interrupts {
	i := &interrupts{signals: make(chan os.Signal, 2), done: make(chan struct{}), restore: map[int]func(){}}
	signal.Notify(i.signals, os.Interrupt, syscall.SIGTERM)
	go func() {
		defer close(i.done)
		heard := false
		for s := range i.signals {
			i.mu.Lock()
			taker := i.taker
			i.mu.Unlock()
			switch {
			case taker != nil:
				select {
				case taker <- s:
				default: // it has not yet read the last one
				}
			case !heard:
				heard = true
				cancel()
			default:
				i.tidy()
				os.Exit(exitInterrupted)
			}
		}
	}()
	return i
}

func (i *interrupts) close() {
	signal.Stop(i.signals)
	close(i.signals)
	<-i.done
}

// take has further signals sent to the channel, until the function it returns
// is called.
func (i *interrupts) take(c chan<- os.Signal) (giveBack func()) {
	if i == nil {
		return func() {}
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.taker = c
	return func() {
		i.mu.Lock()
		defer i.mu.Unlock()
		i.taker = nil
	}
}

// tidying registers what is to be done should the program end on the spot; the
// function it returns does it, once, and forgets it.
func (i *interrupts) tidying(f func()) (now func()) {
	f = sync.OnceFunc(f)
	if i == nil {
		return f
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	n := i.next
	i.next++
	i.restore[n] = f
	return func() {
		f()
		i.mu.Lock()
		defer i.mu.Unlock()
		delete(i.restore, n)
	}
}

func (i *interrupts) tidy() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, f := range i.restore {
		f()
	}
}
