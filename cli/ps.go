package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"gantry/client"
	"gantry/compose"
	"gantry/scheduler"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
)

type psOptions struct {
	all, quiet, services, noTrunc, orphans bool
	status                                 []string
	filter, format                         string
}

func (a *app) psCommand() *cobra.Command {
	var o psOptions
	cmd := &cobra.Command{
		Use:               "ps [SERVICE...]",
		Short:             "List containers",
		ValidArgsFunction: a.completeServices,
		RunE:              func(cmd *cobra.Command, services []string) error { return a.ps(cmd.Context(), services, o) },
	}
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all", "a", false, "stopped containers, too")
	f.BoolVarP(&o.quiet, "quiet", "q", false, "ids alone")
	f.BoolVar(&o.services, "services", false, "names of services alone")
	f.BoolVar(&o.noTrunc, "no-trunc", false, "do not shorten")
	f.BoolVar(&o.orphans, "orphans", true, "containers of services the project does not have, too")
	f.StringArrayVar(&o.status, "status", nil, "only in this `state`: created, running, paused, restarting, exited, dead, removing")
	f.StringVar(&o.filter, "filter", "", "only those with `status=STATE`")
	f.StringVar(&o.format, "format", "table", "table, json or a Go template")
	a.completeFlagValues(cmd, "status", states...)
	a.completeFlagValues(cmd, "format", "table", "json")
	dryRunnable(cmd)
	return cmd
}

var states = []string{"created", "running", "paused", "restarting", "removing", "exited", "dead"}

func (a *app) ps(ctx context.Context, services []string, o psOptions) error {
	if o.filter != "" {
		key, value, _ := strings.Cut(o.filter, "=")
		if key != "status" {
			return fmt.Errorf("--filter %q: only status=STATE can be filtered by", o.filter)
		}
		o.status = append(o.status, value)
	}
	for _, s := range o.status {
		if !slices.Contains(states, s) {
			return fmt.Errorf("--status %q: must be one of %s", s, strings.Join(states, ", "))
		}
	}
	s, err := a.stack(ctx, stackOptions{services: services, all: o.all || len(o.status) > 0, oneOff: true, looks: true})
	if err != nil {
		return err
	}
	var defined func(string) bool
	if !o.orphans {
		p, err := a.load(ctx, func(src *compose.Source) { src.NoContent, src.NoEnvResolution = true, true })
		if err != nil {
			return err
		}
		defined = func(service string) bool {
			_, err := p.GetService(service)
			return err == nil
		}
	}
	l := list[containerRow]{quiet: "ID", columns: []column{{"NAME", "Name"}, {"IMAGE", "Image"}, {"COMMAND", "Command"},
		{"SERVICE", "Service"}, {"READY", "Ready"}, {"CREATED", "RunningFor"}, {"STATUS", "Status"}, {"PORTS", "Ports"}}}
	ready := map[string]string{}
	if !o.quiet && !o.services {
		if ready, err = readiness(ctx, s); err != nil {
			return err
		}
	}
	var names []string
	for _, r := range s.containers {
		if len(o.status) > 0 && !slices.Contains(o.status, string(r.State)) || defined != nil && !defined(r.service) {
			continue
		}
		names = append(names, r.service)
		row := asContainerRow(r.Container, time.Now(), o.noTrunc || o.quiet || o.format == formatJSON)
		row.Ready = ready[r.service]
		l.rows = append(l.rows, row)
	}
	if o.services {
		for _, n := range slices.Compact(slices.Sorted(slices.Values(names))) {
			fmt.Fprintln(a.out, n)
		}
		return nil
	}
	if err := l.print(a.out, o.format, o.quiet); err != nil || o.quiet || o.format != "table" {
		return err
	}
	return a.tellMissing(ctx, s.client, s.name)
}

// readiness says of each service how many of its replicas are ready and how many
// are wanted: "3/4". Of a project without a goal nobody knows what is wanted.
func readiness(ctx context.Context, s *stack) (map[string]string, error) {
	st, err := s.client.Project(ctx, s.name)
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	by := map[string]string{}
	for _, svc := range st.Services {
		by[svc.Name] = strconv.Itoa(svc.Ready)
		if st.Phase != scheduler.Unmanaged {
			by[svc.Name] += "/" + strconv.Itoa(svc.Wanted)
		}
	}
	return by, nil
}

// containerRow is a container in a list. The fields are those that docker's
// templates know.
type containerRow struct {
	Command      string
	CreatedAt    string
	ExitCode     int
	Health       string
	ID           string
	Image        string
	Labels       labels
	LocalVolumes string
	Mounts       string
	Name         string
	Names        string
	Networks     string
	Ports        string
	Project      string
	Publishers   publishers
	Ready        string // of the service: "3/4"
	RunningFor   string
	Service      string
	Size         string
	State        string
	Status       string
}

// Label is a label by its name, for templates: {{.Label "key"}}.
func (r containerRow) Label(key string) string { return r.Labels[key] }

// labels print as key=value,key=value.
type labels map[string]string

func (l labels) String() string {
	pairs := make([]string, 0, len(l))
	for k, v := range l {
		pairs = append(pairs, k+"="+v)
	}
	slices.Sort(pairs)
	return strings.Join(pairs, ",")
}

func (l labels) MarshalJSON() ([]byte, error) { return json.Marshal(l.String()) }

// publisher is one published port in docker compose's JSON.
type publisher struct {
	URL           string
	TargetPort    int
	PublishedPort int
	Protocol      string
}

type publishers []publisher

func asContainerRow(c client.Container, now time.Time, whole bool) containerRow {
	r := asReplica(c)
	created := time.Unix(c.Created, 0)
	row := containerRow{
		ID: c.ID, Name: r.name, Names: r.name, Image: c.Image, Command: c.Command,
		CreatedAt: created.Format("2006-01-02 15:04:05 -0700 MST"), RunningFor: ago(now.Sub(created)),
		State: string(c.State), Status: c.Status, Labels: c.Labels,
		Project: c.Labels[scheduler.LabelProject], Service: r.service, Size: "0B",
		Ports: portsText(c.Ports), ExitCode: exitedWith(c.Status),
	}
	if c.Health != nil && c.Health.Status != "none" {
		row.Health = string(c.Health.Status)
	}
	local := 0
	var mounts, networks []string
	for _, m := range c.Mounts {
		if m.Type == "volume" {
			local++
			mounts = append(mounts, m.Name)
		} else {
			mounts = append(mounts, m.Source)
		}
	}
	if c.NetworkSettings != nil {
		for n := range c.NetworkSettings.Networks {
			networks = append(networks, n)
		}
	}
	slices.Sort(networks)
	row.LocalVolumes, row.Mounts, row.Networks = strconv.Itoa(local), strings.Join(mounts, ","), strings.Join(networks, ",")
	row.Publishers = publishers{}
	for _, p := range sortedPorts(c.Ports) {
		ip := ""
		if p.IP.IsValid() {
			ip = p.IP.String()
		}
		row.Publishers = append(row.Publishers, publisher{ip, int(p.PrivatePort), int(p.PublicPort), p.Type})
	}
	if !whole {
		row.ID = row.ID[:min(12, len(row.ID))]
		row.Command = `"` + clip(row.Command, 20) + `"`
		row.Image = shortID(row.Image)
	} else if row.Command != "" {
		row.Command = `"` + row.Command + `"`
	}
	return row
}

// exitedWith reads the code off "Exited (3) 2 seconds ago": the list says it
// nowhere else.
func exitedWith(status string) int {
	var code int
	if _, err := fmt.Sscanf(status, "Exited (%d)", &code); err != nil {
		return 0
	}
	return code
}

// shortID shortens a bare image id, and leaves a name as it is.
func shortID(ref string) string {
	if id, ok := strings.CutPrefix(ref, "sha256:"); ok {
		return id[:min(12, len(id))]
	}
	return ref
}

// ago says how long ago in one unit, as docker does.
func ago(d time.Duration) string { return span(d) + " ago" }

func span(d time.Duration) string {
	s := int(d.Seconds())
	switch {
	case s < 1:
		return "Less than a second"
	case s == 1:
		return "1 second"
	case s < 60:
		return fmt.Sprintf("%d seconds", s)
	case s < 120:
		return "About a minute"
	case s < 3600:
		return fmt.Sprintf("%d minutes", s/60)
	case s < 7200:
		return "About an hour"
	case s < 48*3600:
		return fmt.Sprintf("%d hours", s/3600)
	case s < 14*24*3600:
		return fmt.Sprintf("%d days", s/86400)
	case s < 60*24*3600:
		return fmt.Sprintf("%d weeks", s/604800)
	case s < 730*24*3600:
		return fmt.Sprintf("%d months", s/2592000)
	}
	return fmt.Sprintf("%d years", s/31536000)
}

func sortedPorts(ports []client.PortSummary) []client.PortSummary {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b client.PortSummary) int {
		if c := a.IP.Compare(b.IP); c != 0 {
			return c
		}
		if c := strings.Compare(a.Type, b.Type); c != 0 {
			return c
		}
		if c := int(a.PrivatePort) - int(b.PrivatePort); c != 0 {
			return c
		}
		return int(a.PublicPort) - int(b.PublicPort)
	})
	return ports
}

// portsText writes ports as docker does, neighbours as a range:
// "0.0.0.0:8080-8081->80-81/tcp, 443/tcp".
func portsText(ports []client.PortSummary) string {
	type run struct {
		client.PortSummary
		n uint16 // further ports
	}
	var runs []run
	for _, p := range sortedPorts(ports) {
		if len(runs) > 0 {
			l := &runs[len(runs)-1]
			next := l.PrivatePort + l.n + 1
			public := p.PublicPort == 0 && l.PublicPort == 0 || l.PublicPort != 0 && p.PublicPort == l.PublicPort+l.n+1
			if p.IP == l.IP && p.Type == l.Type && p.PrivatePort == next && public {
				l.n++
				continue
			}
		}
		runs = append(runs, run{PortSummary: p})
	}
	numbers := func(first, more uint16) string {
		if more == 0 {
			return strconv.Itoa(int(first))
		}
		return fmt.Sprintf("%d-%d", first, first+more)
	}
	var out []string
	for _, r := range runs {
		text := numbers(r.PrivatePort, r.n) + "/" + r.Type
		if r.PublicPort != 0 {
			host := ""
			if r.IP.IsValid() {
				if host = r.IP.String(); r.IP.Is6() {
					host = "[" + host + "]"
				}
				host += ":"
			}
			text = host + numbers(r.PublicPort, r.n) + "->" + text
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}
