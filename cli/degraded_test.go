package cli

import (
	"testing"
	"time"

	"gantry/scheduler"
)

func TestAutomatic(t *testing.T) {
	now := time.Date(2026, 1, 1, 12, 0, 0, 0, time.Local)
	for want, s := range map[string]scheduler.ServiceStatus{
		"": {Name: "web", Wanted: 3},
		"autoscaled, 2 to 6, cpu at 50%, aimed at 70%":      {Autoscale: "2 to 6, cpu at 50%, aimed at 70%"},
		"a job (0 3 * * *), next run 2026-01-02 03:00":      {Schedule: "0 3 * * *", NextRun: now.Add(15 * time.Hour)},
		"a job (*/5 * * * *), next run in 3 minutes":        {Schedule: "*/5 * * * *", NextRun: now.Add(3*time.Minute + time.Second)},
		"a job (@every 1s), next run in Less than a second": {Schedule: "@every 1s", NextRun: now},
		"a job (0 3 * * *), stopped":                        {Schedule: "0 3 * * *"},
	} {
		if got := automatic(s, now); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
