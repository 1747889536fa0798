package server

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runc/libcontainer"
	"golang.org/x/sys/unix"
)

// On a busy machine a short program has run and ended before the keeper comes
// to read that it was let go. That is a start, not a death before it.
func TestQuickerThanItsKeeper(t *testing.T) {
	for _, ran := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "exec.fifo")
		if err := mkfifo(path); err != nil {
			t.Fatal(err)
		}
		fifo, err := openPollable(path, unix.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		defer fifo.Close()
		if ran {
			if _, err := fifo.WriteString("0"); err != nil {
				t.Fatal(err)
			}
		}
		c := newContainer(&Server{}, "quick")
		c.proc = &libcontainer.Process{}
		close(c.done)
		if err := fifo.SetReadDeadline(time.Now()); err != nil { // by who watches over its end
			t.Fatal(err)
		}
		if err := c.hear(fifo); (err == nil) != ran {
			t.Errorf("it ran: %v; to start it: %v", ran, err)
		}
	}
}
