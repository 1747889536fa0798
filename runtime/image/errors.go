package image

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// failure is an error with a class that does not show in its text: the text is
// for people and already says what the class says.
type failure struct {
	class error
	err   error
}

func (f *failure) Error() string   { return f.err.Error() }
func (f *failure) Unwrap() []error { return []error{f.class, f.err} }

// classed is fmt.Errorf for an error of a class of errdefs.
func classed(class error, format string, args ...any) error {
	return &failure{class: class, err: fmt.Errorf(format, args...)}
}

// notHere says that there is no image called ref, and what to do about it. It
// begins with Docker's words, by which docker-py tells a missing image from
// other things that are missing.
func notHere(ref string) error {
	return classed(errdefs.ErrNotFound,
		`No such image: %s; get it with "gantry image pull", or load it with "gantry image load -i FILE"`, ref)
}
