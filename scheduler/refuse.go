package scheduler

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// refusal is an error for people: its text says the object, the cause and the
// next step; its class is for programs.
type refusal struct {
	text  string
	class error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.class }

func invalid(format string, args ...any) error {
	return &refusal{fmt.Sprintf(format, args...), errdefs.ErrInvalidArgument}
}

func notFound(format string, args ...any) error {
	return &refusal{fmt.Sprintf(format, args...), errdefs.ErrNotFound}
}

func conflict(format string, args ...any) error {
	return &refusal{fmt.Sprintf(format, args...), errdefs.ErrFailedPrecondition}
}
