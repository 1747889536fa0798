package compose

import (
	"fmt"
	"strings"
)

// Error says what is wrong with a project, in one line:
//
//	compose.yaml:7: services.web.ports: must be a list; write each port as "- host:container"
type Error struct {
	File   string // as the user would write it; "" when unknown
	Line   int    // from 1; 0 when unknown
	Object string // "services.web.ports"; may be ""
	Cause  string
	Next   string // what to do; may be ""

	class error // of containerd/errdefs
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.File != "" {
		b.WriteString(e.File)
		if e.Line > 0 {
			fmt.Fprintf(&b, ":%d", e.Line)
		}
		b.WriteString(": ")
	}
	if e.Object != "" {
		b.WriteString(e.Object + ": ")
	}
	b.WriteString(e.Cause)
	if e.Next != "" {
		b.WriteString("; " + e.Next)
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.class }
