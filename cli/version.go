package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"time"

	"gantry/client"

	"github.com/spf13/cobra"
)

type versionOptions struct {
	short  bool
	format string
}

func (a *app) versionCommand() *cobra.Command {
	var o versionOptions
	cmd := &cobra.Command{
		Use:   "version",
		Short: "Show the version, and the daemon's if it runs",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.printVersion(cmd.Context(), o) },
	}
	cmd.Flags().BoolVar(&o.short, "short", false, "the number alone")
	cmd.Flags().StringVarP(&o.format, "format", "f", "", "pretty, json or a Go template")
	a.completeFlagValues(cmd, "format", "pretty", "json")
	dryRunnable(cmd)
	return cmd
}

// versions is what `version --format` shows. Version is at the top for those
// who read docker compose's.
type versions struct {
	Version string         `json:"version"`
	Client  clientVersion  `json:"client"`
	Daemon  *daemonVersion `json:"daemon,omitempty"`
}

type clientVersion struct {
	Version, Commit, Go, OS, Arch string
}

type daemonVersion struct {
	Host, Version, Commit, API, MinAPI, Go, Kernel string
}

// versionPatience bounds how long a daemon is asked who it is.
const versionPatience = 2 * time.Second

func (a *app) printVersion(ctx context.Context, o versionOptions) error {
	if o.short {
		_, err := fmt.Fprintln(a.out, a.version.Number)
		return err
	}
	v := versions{Version: a.version.Number, Client: clientVersion{
		Version: a.version.Number, Commit: a.version.Commit, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}}
	c, reason := a.connect()
	if reason == nil {
		asking, cancel := context.WithTimeout(ctx, versionPatience)
		defer cancel()
		var d client.Version
		if d, reason = c.Version(asking); reason == nil {
			v.Daemon = &daemonVersion{Host: c.Host(), Version: d.Version, Commit: d.GitCommit, API: d.APIVersion,
				MinAPI: d.MinAPIVersion, Go: d.GoVersion, Kernel: d.KernelVersion}
		}
	}
	switch o.format {
	case "", "pretty":
	case formatJSON:
		return json.NewEncoder(a.out).Encode(v)
	default:
		t, err := parseTemplate(o.format)
		if err != nil {
			return err
		}
		text, err := execute(t, v)
		fmt.Fprintln(a.out, text)
		return err
	}
	line := func(number, commit string) string {
		if commit != "" {
			return number + " (" + commit + ")"
		}
		return number
	}
	fmt.Fprintln(a.out, "gantry version", line(v.Client.Version, v.Client.Commit))
	if v.Daemon != nil {
		fmt.Fprintf(a.out, "daemon version %s, API %s, at %s\n", line(v.Daemon.Version, v.Daemon.Commit), v.Daemon.API, v.Daemon.Host)
	} else {
		fmt.Fprintln(a.out, "daemon not reached:", oneLine(reason))
	}
	return nil
}
