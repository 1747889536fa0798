package cli

import (
	"context"
	"fmt"
	"time"

	"gantry/client"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
)

// tellMissing says, beside the table, what the daemon does of its own accord:
// which services it scales and when it runs jobs, and what a project misses that
// it cannot or may not repair.
func (a *app) tellMissing(ctx context.Context, c *client.Client, project string) error {
	st, err := c.Project(ctx, project)
	if errdefs.IsNotFound(err) {
		return nil // it has neither a goal nor a container
	}
	if err != nil {
		return err
	}
	for _, s := range st.Services {
		if text := automatic(s, time.Now()); text != "" {
			fmt.Fprintln(a.err, s.Name+": "+text)
		}
	}
	if st.Phase == scheduler.Degraded {
		fmt.Fprintf(a.err, "project %s is degraded:\n", project)
		for _, text := range st.Problems {
			fmt.Fprintln(a.err, "  "+text)
		}
	}
	return nil
}

// automatic says what the daemon does with a service of its own accord, "" if
// nothing.
func automatic(s scheduler.ServiceStatus, now time.Time) string {
	switch {
	case s.Autoscale != "":
		return "autoscaled, " + s.Autoscale
	case s.Schedule == "":
		return ""
	case s.NextRun.IsZero():
		return "a job (" + s.Schedule + "), stopped"
	}
	at := s.NextRun.Local().Format("2006-01-02 15:04")
	if d := s.NextRun.Sub(now); d < time.Hour {
		at = "in " + span(max(d, 0))
	}
	return "a job (" + s.Schedule + "), next run " + at
}
