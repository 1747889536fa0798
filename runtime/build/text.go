package build

import (
	"context"
	"io"
	"sync"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress/progressui"
)

// Text turns a build's progress into lines, as BuildKit's plain display prints
// them.
type Text struct {
	status chan *bkclient.SolveStatus
	work   sync.WaitGroup
	end    sync.Once
}

// NewText begins a display; each line goes to print. It must be closed.
func NewText(print func(string)) *Text {
	t := &Text{status: make(chan *bkclient.SolveStatus)}
	t.work.Go(func() {
		d, err := progressui.NewDisplay(lines(print), progressui.PlainMode)
		if err == nil {
			_, err = d.UpdateFrom(context.Background(), t.status)
		}
		if err != nil {
			for range t.status { // whoever reports must not wait for a display that is gone
			}
		}
	})
	return t
}

// Add takes a piece of progress; it is a [Report].
func (t *Text) Add(s *bkclient.SolveStatus) { t.status <- s }

// Close waits until everything is printed.
func (t *Text) Close() {
	t.end.Do(func() { close(t.status) })
	t.work.Wait()
}

type lines func(string)

var _ io.Writer = lines(nil)

func (print lines) Write(p []byte) (int, error) {
	print(string(p))
	return len(p), nil
}
