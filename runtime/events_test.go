package runtime

import (
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// A query that ends at a time answers with all that has happened by then and
// nothing that came later, however slowly it is read.
func TestEventsUntil(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := &Engine{bus: newBus(), closing: make(chan struct{})}
		publish := func(from, to int) {
			for i := from; i < to; i++ {
				e.bus.publish(Event{Action: strconv.Itoa(i)})
			}
		}
		ended := make(chan string)
		go func() {
			var told []string
			err := e.Events(t.Context(), EventQuery{Until: time.Now().Add(time.Second)}, func(ev Event) error {
				time.Sleep(300 * time.Millisecond)
				told = append(told, ev.Action)
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			ended <- strings.Join(told, " ")
		}()
		synctest.Wait()
		publish(0, 10)
		time.Sleep(1500 * time.Millisecond)
		publish(10, 20)
		if told := <-ended; told != "0 1 2 3 4 5 6 7 8 9" {
			t.Errorf("told %s", told)
		}
	})
}
