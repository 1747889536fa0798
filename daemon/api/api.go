// Package api serves the Docker Engine API, and gantry's own calls for
// projects and for the daemon itself, over HTTP.
//
// A handler is thin: wire to noun, one call, noun to wire. The package knows
// the shapes, the statuses and the framing of streams; what the calls mean it
// leaves to the interfaces in engine.go, and it keeps no state.
//
// There is one file per noun. The shapes of a noun live in wire_<noun>.go,
// this file holds the routes, and errors become statuses here and nowhere
// else.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"runtime/debug"
	"strings"
	"time"

	"gantry/runtime/keeper"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/common"
)

// Versions of the Docker Engine API that are answered. Up to the newest of
// the module moby/moby/api, whose types are used; from 1.44 on the shapes are
// exact, below they are what old clients can read.
const (
	Newest = "1.56"
	oldest = "1.24"
)

// Options say what is served.
type Options struct {
	Engine   Engine
	Builder  Builder  // nil: nothing is built
	Projects Projects // nil: /projects answers 503
	Ports    Ports    // nil: no ports are found for copies

	Version string // of gantry
	Commit  string
	Built   string // time of the build, RFC 3339
	Root    string
	Run     string
	Started time.Time
	// Keeper gives the process id of gantry-runtime. Nil: not told.
	Keeper func() int

	// Stop begins the shutdown of the daemon and returns at once, or refuses.
	// With leave set, live containers run on with the keeper; without it no
	// container lived when it was called, and the keeper is to end as well.
	// Nil: the daemon cannot be stopped by a call.
	Stop func(leave bool) error

	Log *slog.Logger
}

// server is what every handler knows.
type server struct {
	Options
	mux *http.ServeMux
}

// handler answers one request or returns why not; an error before the first
// byte of an answer becomes its status and body.
type handler func(ctx context.Context, w http.ResponseWriter, r *http.Request) error

// New makes the handler of all routes. It is stateless: closing is the
// server's affair.
func New(o Options) http.Handler {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Builder == nil {
		o.Builder = noBuilder{}
	}
	s := &server{Options: o, mux: http.NewServeMux()}
	for pattern, h := range s.routes() {
		s.mux.Handle(pattern, s.wrap(h))
	}
	for _, m := range missing() {
		s.mux.Handle(m.pattern, s.wrap(m.refuse))
	}
	return s
}

func (s *server) routes() map[string]handler {
	return map[string]handler{
		"GET /_ping":   s.ping,
		"HEAD /_ping":  s.ping,
		"GET /version": s.version,
		"GET /info":    s.info,
		"GET /events":  s.events,

		"GET /plugins":              s.plugins,
		"GET /plugins/{path...}":    s.noPlugin,
		"POST /plugins/{path...}":   s.noPlugin,
		"DELETE /plugins/{path...}": s.noPlugin,

		"GET /system/df":         s.diskUsage,
		"POST /containers/prune": s.containerPrune,
		"POST /images/prune":     s.imagePrune,
		"POST /networks/prune":   s.networkPrune,
		"POST /volumes/prune":    s.volumePrune,
		"POST /build/prune":      s.buildPrune,
		"POST /build":            s.imageBuild,
		"POST /build/cancel":     s.buildCancel,
		"POST /session":          s.session,
		"POST /grpc":             s.grpc,

		"GET /containers/json":           s.containerList,
		"POST /containers/create":        s.containerCreate,
		"GET /containers/{id}/json":      s.containerInspect,
		"POST /containers/{id}/start":    s.containerStart,
		"POST /containers/{id}/stop":     s.containerStop,
		"POST /containers/{id}/restart":  s.containerRestart,
		"POST /containers/{id}/kill":     s.containerKill,
		"POST /containers/{id}/pause":    s.containerPause,
		"POST /containers/{id}/unpause":  s.containerUnpause,
		"POST /containers/{id}/rename":   s.containerRename,
		"POST /containers/{id}/update":   s.containerUpdate,
		"POST /containers/{id}/wait":     s.containerWait,
		"DELETE /containers/{id}":        s.containerRemove,
		"GET /containers/{id}/logs":      s.containerLogs,
		"POST /containers/{id}/attach":   s.containerAttach,
		"GET /containers/{id}/attach/ws": s.containerAttachWS,
		"POST /containers/{id}/resize":   s.containerResize,
		"GET /containers/{id}/stats":     s.containerStats,
		"GET /containers/{id}/top":       s.containerTop,
		"GET /containers/{id}/changes":   s.containerChanges,
		"GET /containers/{id}/export":    s.containerExport,
		"HEAD /containers/{id}/archive":  s.archiveStat,
		"GET /containers/{id}/archive":   s.archiveGet,
		"PUT /containers/{id}/archive":   s.archivePut,
		"POST /containers/{id}/exec":     s.execCreate,
		"POST /exec/{id}/start":          s.execStart,
		"POST /exec/{id}/resize":         s.execResize,
		"GET /exec/{id}/json":            s.execInspect,
		"POST /commit":                   s.commit,
		"GET /images/json":               s.imageList,
		"GET /images/get":                s.imagesSave,
		"POST /images/load":              s.imageLoad,
		"POST /images/create":            s.imageCreate,
		"GET /images/search":             s.imageSearch,
		"GET /distribution/{path...}":    s.distribution,
		"POST /auth":                     s.auth,
		"GET /images/{path...}":          s.imageGet,
		"POST /images/{path...}":         s.imagePost,
		"DELETE /images/{path...}":       s.imageRemove,
		"GET /networks":                  s.networkList,
		"POST /networks/create":          s.networkCreate,
		"GET /networks/{id}":             s.networkInspect,
		"DELETE /networks/{id}":          s.networkRemove,
		"POST /networks/{id}/connect":    s.networkConnect,
		"POST /networks/{id}/disconnect": s.networkDisconnect,
		"GET /volumes":                   s.volumeList,
		"POST /volumes/create":           s.volumeCreate,
		"GET /volumes/{name}":            s.volumeInspect,
		"DELETE /volumes/{name}":         s.volumeRemove,

		"GET /projects":                  s.projectList,
		"GET /projects/{name}":           s.projectInspect,
		"PUT /projects/{name}":           s.projectApply,
		"POST /projects/{name}/plan":     s.projectPlan,
		"DELETE /projects/{name}":        s.projectDown,
		"GET /projects/{name}/goal":      s.projectGoal,
		"POST /projects/{name}/scale":    s.projectScale,
		"POST /projects/{name}/start":    s.projectStart,
		"POST /projects/{name}/stop":     s.projectStop,
		"POST /projects/{name}/rollback": s.projectRollback,
		"GET /projects/{name}/history":   s.projectHistory,
		"POST /projects/{name}/ports":    s.projectPorts,
		"GET /projects/{name}/place":     s.projectPlace,

		"GET /daemon":       s.daemonStatus,
		"POST /daemon/stop": s.daemonStop,
	}
}

func (s *server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	head := w.Header()
	head.Set("Api-Version", Newest)
	head.Set("Docker-Experimental", "false")
	head.Set("Ostype", "linux")
	head.Set("Server", "gantry/"+s.Version+" (linux)")

	r, err := withoutVersion(r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(http.StatusOK) // to every path, as Docker does
		return
	}
	// The mux alone would answer a known path with another method by 405 and
	// its own text; Docker's answer to both is the same 404.
	if _, pattern := s.mux.Handler(r); pattern == "" {
		s.refuse(w, r, errdefs.ErrNotFound.WithMessage("page not found"))
		return
	}
	s.mux.ServeHTTP(w, r)
}

// version of the API asked for by a request; "" when its path names none.
type versionKey struct{}

// withoutVersion takes the prefix /v1.NN off the path and checks it.
func withoutVersion(r *http.Request) (*http.Request, error) {
	rest, ok := strings.CutPrefix(r.URL.Path, "/v")
	if !ok {
		return r, nil
	}
	version, _, _ := strings.Cut(rest, "/")
	asked, ok := minor(version)
	if !ok {
		if major, _, cut := strings.Cut(version, "."); cut && len(major) == 1 && major > "1" && major <= "9" {
			return r, invalid("client version %s is too new. Maximum supported API version is %s", version, Newest)
		}
		return r, nil // "/volumes", or a page that is not found
	}
	first, _ := minor(oldest)
	last, _ := minor(Newest)
	switch {
	case asked < first:
		return r, invalid("client version %s is too old. Minimum supported API version is %s, please upgrade your client to a newer version", version, oldest)
	case asked > last:
		return r, invalid("client version %s is too new. Maximum supported API version is %s", version, Newest)
	}
	u := *r.URL
	u.Path = strings.TrimPrefix(u.Path, "/v"+version)
	u.RawPath = strings.TrimPrefix(u.RawPath, "/v"+version)
	if u.Path == "" {
		u.Path = "/"
	}
	r = r.WithContext(context.WithValue(r.Context(), versionKey{}, asked))
	r.URL = &u
	return r, nil
}

// minor parses "1.NN"; there never was another major version.
func minor(version string) (int, bool) {
	digits, ok := strings.CutPrefix(version, "1.")
	if !ok || digits == "" || len(digits) > 4 {
		return 0, false
	}
	n := 0
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0, false
		}
		n = n*10 + int(d-'0')
	}
	return n, true
}

// before reports whether the request asks for an API older than 1.n.
func before(ctx context.Context, n int) bool {
	asked, ok := ctx.Value(versionKey{}).(int)
	return ok && asked < n
}

// wrap turns a handler into net/http's kind: it bounds nothing and decides
// nothing but what becomes of an error or a panic.
func (s *server) wrap(h handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := &answer{ResponseWriter: w}
		defer func() {
			p := recover()
			if p == nil {
				return
			}
			if p == http.ErrAbortHandler { //nolint:errorlint // a panic's value, compared as net/http does
				panic(p)
			}
			s.Log.Error("handler panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
			s.fail(out, r, errors.New("the daemon made a mistake answering this; its log says more"))
		}()
		if err := h(r.Context(), out, r); err != nil {
			s.fail(out, r, err)
		}
	})
}

// fail answers with an error, if there is still somebody to tell.
func (s *server) fail(out *answer, r *http.Request, err error) {
	switch {
	case out.taken:
		// The connection is the handler's; it has told the peer what it could.
	case out.begun:
		// Too late for a status. Cutting the answer off is how HTTP says that
		// it is not complete.
		if r.Context().Err() == nil {
			s.Log.Info("answer cut off", "method", r.Method, "path", r.URL.Path, "error", err)
		}
		panic(http.ErrAbortHandler)
	default:
		s.refuse(out, r, err)
	}
}

// answer remembers whether an answer has begun.
type answer struct {
	http.ResponseWriter
	begun bool
	taken bool // hijacked
}

func (a *answer) WriteHeader(status int) {
	a.begun = true
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(p)
}

// Unwrap lets http.ResponseController reach what is below. Flushing goes the
// same way, and begins an answer only after its header was written.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// refuse answers with the status of an error's class.
func (s *server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	status, class := classOf(err)
	if status >= 500 && status != http.StatusNotImplemented {
		s.Log.Warn("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
	}
	if class != "" {
		w.Header().Set(classHeader, class)
	}
	if status == http.StatusNotModified {
		w.WriteHeader(status) // has no body, by the standard
		return
	}
	_ = writeJSON(w, status, common.ErrorResponse{Message: message(err)})
}

// classHeader tells gantry's client the class of an error where the status is
// the same for several.
const classHeader = "Gantry-Error-Class"

// classOf is the one place where an error's class becomes a status. The name
// is what classHeader carries.
func classOf(err error) (status int, class string) {
	var start *keeper.StartError
	switch {
	case errors.As(err, &start) && errdefs.IsNotFound(err):
		// The program is not there; the container is.
		return http.StatusBadRequest, "not-found"
	case errdefs.IsNotFound(err):
		return http.StatusNotFound, "not-found"
	case errdefs.IsInvalidArgument(err), errdefs.IsOutOfRange(err):
		return http.StatusBadRequest, "invalid-argument"
	case errdefs.IsAlreadyExists(err):
		return http.StatusConflict, "already-exists"
	case errdefs.IsFailedPrecondition(err):
		return http.StatusConflict, "failed-precondition"
	case errdefs.IsConflict(err), errdefs.IsAborted(err):
		return http.StatusConflict, "conflict"
	case errdefs.IsNotModified(err):
		return http.StatusNotModified, "not-modified"
	case errdefs.IsUnauthorized(err):
		return http.StatusUnauthorized, "unauthenticated"
	case errdefs.IsPermissionDenied(err):
		return http.StatusForbidden, "permission-denied"
	case errdefs.IsNotImplemented(err):
		return http.StatusNotImplemented, "not-implemented"
	case errdefs.IsUnavailable(err), errdefs.IsResourceExhausted(err), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable, "unavailable"
	case errors.Is(err, context.Canceled):
		return http.StatusServiceUnavailable, "canceled"
	}
	return http.StatusInternalServerError, ""
}

// message is an error's text for the user. A class wrapped with %w at the end
// of a line has added its own words ("no such image: x: not found"); they say
// nothing that the sentence before them does not, and are taken off.
func message(err error) string {
	lines := strings.Split(err.Error(), "\n")
	for _, class := range []error{
		errdefs.ErrNotFound, errdefs.ErrInvalidArgument, errdefs.ErrAlreadyExists, errdefs.ErrFailedPrecondition,
		errdefs.ErrConflict, errdefs.ErrUnavailable, errdefs.ErrNotImplemented, errdefs.ErrPermissionDenied,
		errdefs.ErrResourceExhausted, errdefs.ErrOutOfRange, errdefs.ErrUnauthenticated,
	} {
		if !errors.Is(err, class) {
			continue
		}
		for i, line := range lines {
			if short := strings.TrimSuffix(line, ": "+class.Error()); short != "" {
				lines[i] = short
			}
		}
	}
	return strings.Join(lines, "\n")
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func unsupported(format string, args ...any) error {
	return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf(format, args...))
}

// writeJSON answers with a value.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err = w.Write(append(text, '\n'))
	return err
}

// noContent answers that it is done.
func noContent(w http.ResponseWriter) error {
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// boolean reads a flag of a query as Docker does: everything but these is true.
func boolean(q url.Values, name string) bool {
	switch strings.ToLower(strings.TrimSpace(q.Get(name))) {
	case "", "0", "no", "false", "none":
		return false
	}
	return true
}
