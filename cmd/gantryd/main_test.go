package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// traced is an error that tells more than it says when it is asked for all.
type traced string

func (e traced) Error() string { return string(e) }

func (e traced) Format(s fmt.State, _ rune) {
	fmt.Fprint(s, string(e))
	if s.Flag('+') {
		fmt.Fprint(s, "\nsome/package.Function\n\tfile.go:7")
	}
}

// A line of the log is what went wrong, and not where in whose code.
func TestErrorsAreLoggedWithoutTheirStacks(t *testing.T) {
	var out bytes.Buffer
	slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{ReplaceAttr: plain})).Warn("failed", "error", traced("no room"), "of", 3)
	if got := out.String(); !strings.HasSuffix(got, "error=\"no room\" of=3\n") {
		t.Error(got)
	}
}
