package daemon

import (
	"net/http"
	"runtime/debug"
	"time"
)

// lullTime after the last request has ended, memory that nobody needs any more
// is given back: a program as idle as a daemon would keep it for minutes. It is
// the time for other chores as well.
const lullTime = 5 * time.Second

// lull stands before the API and notices when nobody asks.
type lull struct {
	http.Handler
	timer *time.Timer
}

func newLull(chores func(), api http.Handler) *lull {
	return &lull{api, time.AfterFunc(lullTime, func() { chores(); debug.FreeOSMemory() })}
}

func (l *lull) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer l.timer.Reset(lullTime)
	l.Handler.ServeHTTP(w, r)
}

func (l *lull) end() { l.timer.Stop() }
