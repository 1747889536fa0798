package api

import (
	"context"
	"testing"

	"gantry/runtime"
)

// TestExecDetached: "docker exec -d" says that it detaches with the creation
// already.
func TestExecDetached(t *testing.T) {
	f := newFake()
	f.exec = func(context.Context, runtime.ExecConfig, *runtime.ExecStreams) (int, error) { return 0, nil }
	host := serve(t, Options{Engine: f})
	if status, body := post(t, host, "/v1.48/containers/web/exec", `{"User":"","Privileged":false,"Tty":false,"AttachStdin":false,"AttachStderr":false,"AttachStdout":false,"Detach":true,"DetachKeys":"","Env":null,"WorkingDir":"","Cmd":["true"]}`); status != 201 {
		t.Fatalf("%d %s", status, body)
	}
	if status, body := post(t, host, "/v1.48/exec/exec0/start", `{"Detach":true,"Tty":false}`); status != 200 {
		t.Errorf("%d %s", status, body)
	}
}
