package spec

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// refusal is one line about one field: what was asked, why it cannot be, what
// to do instead.
type refusal struct{ field, text string }

func (r refusal) Error() string { return r.field + ": " + r.text }
func (r refusal) Unwrap() error { return errdefs.ErrInvalidArgument }

func refuse(field, format string, args ...any) error {
	return refusal{field, fmt.Sprintf(format, args...)}
}
