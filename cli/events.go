package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"gantry/client"
	"gantry/scheduler"

	"github.com/spf13/cobra"
)

type eventsOptions struct {
	json         bool
	since, until string
}

func (a *app) eventsCommand() *cobra.Command {
	var o eventsOptions
	cmd := &cobra.Command{
		Use:               "events [SERVICE...]",
		Short:             "Show what happens to containers, as it happens",
		ValidArgsFunction: a.completeServices,
		RunE:              func(cmd *cobra.Command, services []string) error { return a.events(cmd.Context(), services, o) },
	}
	f := cmd.Flags()
	f.BoolVar(&o.json, "json", false, "a JSON object for each")
	f.StringVar(&o.since, "since", "", "from this `time` on: 2026-01-02T15:04:05Z, or 10m for ten minutes ago")
	f.StringVar(&o.until, "until", "", "up to this `time`")
	dryRunnable(cmd)
	return cmd
}

// eventLine is an event in docker compose's JSON.
type eventLine struct {
	Action     string            `json:"action"`
	Attributes map[string]string `json:"attributes"`
	ID         string            `json:"id"`
	Service    string            `json:"service"`
	Time       time.Time         `json:"time"`
	Type       string            `json:"type"`
}

func (a *app) events(ctx context.Context, services []string, o eventsOptions) error {
	now := time.Now()
	since, err := parseTime("--since", o.since, now)
	if err != nil {
		return err
	}
	until, err := parseTime("--until", o.until, now)
	if err != nil {
		return err
	}
	name, err := a.stackName(ctx)
	if err != nil {
		return err
	}
	c, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(a.out)
	return c.Events(ctx, client.EventsOptions{Since: stamp(since), Until: stamp(until),
		Filters: client.Filters{}.Add("type", "container").Add("label", scheduler.LabelProject+"="+name)},
		func(e client.Event) error {
			l := asEventLine(e)
			if len(services) > 0 && !slices.Contains(services, l.Service) {
				return nil
			}
			if o.json {
				return enc.Encode(l)
			}
			_, err := fmt.Fprintln(a.out, l)
			return err
		})
}

func asEventLine(e client.Event) eventLine {
	l := eventLine{Action: string(e.Action), Attributes: map[string]string{}, ID: e.Actor.ID,
		Service: e.Actor.Attributes[scheduler.LabelService], Time: time.Unix(0, e.TimeNano), Type: string(e.Type)}
	for k, v := range e.Actor.Attributes {
		if !strings.HasPrefix(k, "com.docker.compose.") && !strings.HasPrefix(k, "gantry.") {
			l.Attributes[k] = v
		}
	}
	return l
}

// String is "2026-01-02 15:04:05.000000 container start ID (image=…, name=…)".
func (l eventLine) String() string {
	var pairs []string
	for k, v := range l.Attributes {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	return fmt.Sprintf("%s %s %s %s (%s)", l.Time.Format("2006-01-02 15:04:05.000000"), l.Type, l.Action, l.ID, strings.Join(pairs, ", "))
}
