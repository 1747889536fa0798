package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// Error is the daemon's refusal, in its own words. errors.Is finds its class
// (errdefs.ErrNotFound, …).
type Error struct {
	Status  int    // of HTTP
	Message string // one line, meant for the user
	class   error
}

func (e *Error) Error() string { return e.Message }

// Unwrap gives the class.
func (e *Error) Unwrap() error { return e.class }

// classHeader carries the class of an error, which the status cannot always
// tell: a conflict may be an object that exists or a state that forbids.
const classHeader = "Gantry-Error-Class"

// classes by the name on the wire, and by status where no name came (a proxy,
// or a daemon that is not gantry's).
var (
	classByName = map[string]error{
		"not-found":           errdefs.ErrNotFound,
		"already-exists":      errdefs.ErrAlreadyExists,
		"invalid-argument":    errdefs.ErrInvalidArgument,
		"failed-precondition": errdefs.ErrFailedPrecondition,
		"conflict":            errdefs.ErrConflict,
		"unavailable":         errdefs.ErrUnavailable,
		"not-implemented":     errdefs.ErrNotImplemented,
		"permission-denied":   errdefs.ErrPermissionDenied,
		"unauthenticated":     errdefs.ErrUnauthenticated,
		"canceled":            context.Canceled,
	}
	classByStatus = map[int]error{
		http.StatusBadRequest:         errdefs.ErrInvalidArgument,
		http.StatusUnauthorized:       errdefs.ErrUnauthenticated,
		http.StatusForbidden:          errdefs.ErrPermissionDenied,
		http.StatusNotFound:           errdefs.ErrNotFound,
		http.StatusConflict:           errdefs.ErrConflict,
		http.StatusNotModified:        errdefs.ErrNotModified,
		http.StatusNotImplemented:     errdefs.ErrNotImplemented,
		http.StatusServiceUnavailable: errdefs.ErrUnavailable,
	}
)

func newError(status int, class, message string) *Error {
	e := &Error{Status: status, Message: message, class: classByName[class]}
	if e.class == nil {
		e.class = classByStatus[status]
	}
	if e.class == nil {
		e.class = errdefs.ErrUnknown
		if status >= 500 {
			e.class = errdefs.ErrInternal
		}
	}
	return e
}

// maxRefusal bounds what is read of an error's body.
const maxRefusal = 1 << 20

func (c *Client) refusal(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	var body struct{ Message string }
	if json.Unmarshal(text, &body) != nil || body.Message == "" {
		body.Message = strings.TrimSpace(string(text))
	}
	if body.Message == "" {
		body.Message = "the daemon answered " + resp.Status
	}
	if !strings.HasPrefix(resp.Header.Get("Server"), "gantry/") {
		body.Message = fmt.Sprintf("%s (%s is not gantry: check GANTRY_HOST and DOCKER_HOST)", body.Message, c.host)
	}
	return newError(resp.StatusCode, resp.Header.Get(classHeader), body.Message)
}

// unreachable says why no answer came, and what to do about it.
func (c *Client) unreachable(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	next := "check that the daemon runs there"
	if c.own {
		next = "start it with `gantry daemon start` as root"
	}
	var dns *net.DNSError
	var cause string
	switch {
	case errors.Is(err, fs.ErrPermission):
		cause, next = "permission denied", "run as root or join the group that owns the socket"
	case errors.Is(err, fs.ErrNotExist):
		cause = "no such socket"
	case errors.Is(err, syscall.ECONNREFUSED):
		cause = "nobody listens"
	case errors.As(err, &dns):
		cause, next = "no such host", "check GANTRY_HOST and DOCKER_HOST"
	default:
		return c.broken(ctx, err)
	}
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("cannot reach the gantry daemon at %s: %s; %s", c.host, cause, next))
}

// broken is a connection that ended in the middle of an answer.
func (c *Client) broken(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("it closed the connection before it had answered")
	}
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("the gantry daemon at %s: %v; see `gantry daemon status`", c.host, err))
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}
