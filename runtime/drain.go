package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
)

// Drain takes a container that is about to be stopped out of names and
// published ports, and waits until those who are connected to it have gone, at
// most for the given time (nil: its own time to stop; negative: for ever). It
// waits only while others of its group are left to serve instead.
//
// A container that is drained stays so until it is started again; when ctx ends
// first, it is as before. One that does not run is drained.
func (e *Engine) Drain(ctx context.Context, ref string, timeout *time.Duration) error {
	ct, err := e.find(ref)
	if err != nil {
		return err
	}
	c := ct.snapshot()
	if !c.State.Live() || !ownNetwork(c.Config.Network.Mode) {
		return nil
	}
	_, grace, err := stopping(c.Config, StopOptions{Timeout: timeout})
	if err != nil {
		return err
	}
	patient, cancel := ctx, context.CancelFunc(func() {})
	if grace >= 0 {
		patient, cancel = context.WithTimeout(ctx, grace)
	}
	defer cancel()
	err = e.Fabric.Drain(patient, c.ID)
	switch {
	case err == nil, errdefs.IsNotFound(err):
		return nil
	case ctx.Err() != nil:
		if back := e.Fabric.Rejoin(c.ID); back != nil && !errdefs.IsNotFound(back) {
			err = errors.Join(err, back)
		}
		return fmt.Errorf("drain container %s: %w", c.Name, err)
	case errors.Is(err, context.DeadlineExceeded):
		n, _ := e.Fabric.Connections(c.ID)
		e.Log.Info("a container's connections have outlasted the time to drain them", "container", c.Name, "connections", n, "time", grace)
		return nil
	}
	return fmt.Errorf("drain container %s: %w", c.Name, err)
}
