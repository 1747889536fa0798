package cli

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"gantry/client"

	"github.com/containerd/errdefs"
)

// What exec ends with when the output of its command has ended.
func TestExecEnd(t *testing.T) {
	code := func(n int) *int { return &n }
	broken := errors.New("broken")
	for _, tt := range []struct {
		exec client.Exec
		err  error
		code int // as exitCode; 0: none
		says string
	}{
		{client.Exec{ExitCode: code(0)}, nil, 0, ""},
		{client.Exec{ExitCode: code(3)}, nil, 3, ""},
		{client.Exec{Running: true}, nil, 0, ""},
		{client.Exec{}, nil, 0, "not known"},
		{client.Exec{}, fmt.Errorf("No such exec instance: x: %w", errdefs.ErrNotFound), 0, "the daemon ended while the command ran"}, //nolint:staticcheck // Docker's text
		{client.Exec{}, broken, 0, "broken"},
	} {
		err := execEnd(tt.exec, tt.err)
		var got exitCode
		switch {
		case tt.code != 0:
			if !errors.As(err, &got) || int(got) != tt.code {
				t.Errorf("%+v %v: %v", tt.exec, tt.err, err)
			}
		case tt.says == "" && err != nil, tt.says != "" && (err == nil || !strings.Contains(err.Error(), tt.says)):
			t.Errorf("%+v %v: %v", tt.exec, tt.err, err)
		}
	}
}
