package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// maxTries is how often a registry is asked the same when it is busy.
	maxTries = 6
	// firstPause doubles with every try, up to longestPause.
	firstPause   = 200 * time.Millisecond
	longestPause = 10 * time.Second
	// longestWait is the longest that a registry may ask to be left alone
	// (Retry-After) for the operation to wait: whoever waits longer wants to
	// know.
	longestWait = 2 * time.Minute
)

// patient asks a registry again that is busy, fails or breaks a connection,
// after pauses that grow. It also keeps transfers as they are: what is packed
// on the way cannot be gone on with in its middle.
type patient struct {
	next       http.RoundTripper
	transports []*http.Transport // below next
	pause      time.Duration
	tries      int
}

func (p *patient) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("User-Agent", "gantry")
	if r.Method == http.MethodGet {
		r.Header.Set("Accept-Encoding", "identity")
	}
	for try := 1; ; try++ {
		resp, err := p.next.RoundTrip(r)
		if !repeatable(r) || r.Context().Err() != nil || (err != nil && !brokenOff(err)) || (err == nil && !busy(resp.StatusCode)) {
			return resp, err
		}
		wait := pauseBefore(p.pause, try)
		if resp == nil {
			err = classed(errdefs.ErrUnavailable, "the registry %s breaks the connection: %w", r.URL.Host, err)
		} else {
			asked := retryAfter(resp.Header.Get("Retry-After"), time.Now())
			_, _ = io.CopyN(io.Discard, resp.Body, 4096)
			resp.Body.Close()
			err = classed(errdefs.ErrUnavailable, "the registry %s answers %s", r.URL.Host, resp.Status)
			if asked > longestWait {
				return nil, classed(errdefs.ErrUnavailable, "the registry %s answers %s and asks to be left alone for %s: try again then", r.URL.Host, resp.Status, asked.Round(time.Second))
			}
			wait = max(wait, asked)
		}
		if try >= p.tries {
			if try > 1 {
				err = classed(errdefs.ErrUnavailable, "%w, %d times in a row", err, try)
			}
			return nil, err
		}
		if e := sleep(r.Context(), wait); e != nil {
			return nil, e
		}
		if r.GetBody != nil {
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

// CloseIdleConnections is what the client's method of this name calls.
func (p *patient) CloseIdleConnections() {
	for _, t := range p.transports {
		t.CloseIdleConnections()
	}
}

// repeatable tells whether asking twice is asking once. The content of an
// upload comes from a pipe: whoever fills it repeats it.
func repeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		return true
	case http.MethodPost:
		return r.Body == nil || r.Body == http.NoBody || r.GetBody != nil
	}
	return false
}

func busy(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// brokenOff tells whether a connection that stood has ended, so that another
// may stand longer. A host that does not answer at all is not asked again.
func brokenOff(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return false
	}
	var timeout net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &timeout) && timeout.Timeout()
}

// pauseBefore is the pause after the given try, a little different each time
// so that many who were refused together do not come back together.
func pauseBefore(first time.Duration, try int) time.Duration {
	p := min(first<<min(try-1, 10), longestPause)
	return p/2 + rand.N(p/2+1)
}

// retryAfter reads the header of that name: seconds or a time (RFC 9110, 10.2.3).
func retryAfter(text string, now time.Time) time.Duration {
	if n, err := strconv.Atoi(strings.TrimSpace(text)); err == nil {
		return time.Duration(min(max(n, 0), int(24*time.Hour/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// registryWords are a registry's own words for an error, shortened, "" if there
// are none (OCI distribution spec, "Error Codes").
func registryWords(body []byte) string {
	var doc struct {
		Errors []struct{ Code, Message string }
	}
	if json.Unmarshal(body, &doc) != nil || len(doc.Errors) == 0 {
		return ""
	}
	text := fmt.Sprintf("%s: %s", strings.ToLower(doc.Errors[0].Code), doc.Errors[0].Message)
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, text)
	if len(text) > 200 {
		text = text[:200] + "..."
	}
	return text
}
