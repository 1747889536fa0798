package keeper

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// Failure is an error as it travels: its text, its class and, of a process
// that could not be run, the exit code.
type Failure struct {
	Text  string
	Class string `json:",omitempty"`
	Code  int    `json:",omitempty"` // of a StartError
}

// classes are the errors that keep their identity across the wire.
var classes = []struct {
	name string
	err  error
}{
	{"invalid-argument", errdefs.ErrInvalidArgument},
	{"not-found", errdefs.ErrNotFound},
	{"already-exists", errdefs.ErrAlreadyExists},
	{"failed-precondition", errdefs.ErrFailedPrecondition},
	{"unavailable", errdefs.ErrUnavailable},
	{"not-implemented", errdefs.ErrNotImplemented},
	{"resource-exhausted", errdefs.ErrResourceExhausted},
	{"permission-denied", errdefs.ErrPermissionDenied},
}

// Fail makes the travelling form of err.
func Fail(err error) *Failure {
	f := &Failure{Text: err.Error()}
	for _, c := range classes {
		if errors.Is(err, c.err) {
			f.Class = c.name
			break
		}
	}
	var s *StartError
	if errors.As(err, &s) {
		f.Code = s.Code
	}
	return f
}

// Err is the error f was made from, as far as it travels.
func (f *Failure) Err() error {
	err := error(&remoteError{text: f.Text})
	for _, c := range classes {
		if c.name == f.Class {
			err = &remoteError{text: f.Text, class: c.err}
		}
	}
	if f.Code != 0 {
		err = &StartError{Code: f.Code, Err: err}
	}
	return err
}

// remoteError has a class that its text does not repeat.
type remoteError struct {
	text  string
	class error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.class }

// Classed gives err a class of errdefs without changing what it says.
func Classed(class, err error) error {
	return &classedError{err: err, class: class}
}

type classedError struct{ err, class error }

func (e *classedError) Error() string   { return e.err.Error() }
func (e *classedError) Unwrap() []error { return []error{e.err, e.class} }

func invalid(err error) error { return Classed(errdefs.ErrInvalidArgument, err) }

func unavailable(format string, args ...any) error {
	return Classed(errdefs.ErrUnavailable, fmt.Errorf(format, args...))
}
