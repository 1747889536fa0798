package server

import (
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"gantry/runtime/keeper"
)

// Calls meet the end of a process: to signal it then is no error, but nobody
// may take its number for its own any more.
func TestSignalMeetsTheEnd(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd, err := keeper.OpenPidfd(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if !owns(pidfd) || hasEnded(pidfd) {
		t.Error("it lives, and its number is not its own")
	}
	if err := sendSignal(pidfd, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := keeper.WaitPidfd(t.Context(), pidfd); err != nil {
		t.Fatal(err)
	}
	if !owns(pidfd) || !hasEnded(pidfd) {
		t.Error("it has not been collected, and its number is not its own")
	}
	_ = cmd.Wait()
	for _, when := range []string{"collected", "closed"} {
		if owns(pidfd) || !hasEnded(pidfd) {
			t.Errorf("%s, and its number is its own", when)
		}
		if err := sendSignal(pidfd, unix.SIGTERM); err != nil {
			t.Errorf("%s: %v", when, err)
		}
		pidfd.Close()
	}
}
