// Package cli is the command line: it knows flags, terminals, tables and exit
// codes. What the commands do is asked of the daemon (package client) or of a
// compose file (package compose); nothing is decided here.
//
// There is one file per command. Results go to standard output, progress and
// complaints to standard error.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"

	"gantry/client"
	"gantry/compose"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Version says what was built; the linker sets it.
type Version struct{ Number, Commit string }

// Exit codes besides 0 and the child's own.
const (
	exitError       = 1
	exitChanges     = 2 // plan: there is something to do
	exitInterrupted = 130
)

// exitCode ends the program with a code, without a word of its own.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// app is one invocation: where it reads and writes, and the flags every
// command has.
type app struct {
	version    Version
	in         io.Reader
	out, err   io.Writer
	env        func(string) string
	environ    []string
	interrupts *interrupts

	files, profiles, envFiles    []string
	projectDir, projectName      string
	instance                     string
	host                         string
	progress, ansi               string
	parallel                     int
	dryRun, compatibility        bool
	allResources                 bool
	insecureRegistry             []string
	noANSI, verbose, showVersion bool

	client *client.Client
}

// Main runs the program and returns its exit code. The first interrupt cancels
// what runs, which may still tidy up; the second ends the program at once.
func Main(v Version, args []string) int {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a := &app{version: v, in: os.Stdin, out: os.Stdout, err: os.Stderr, env: os.Getenv, environ: os.Environ()}
	a.interrupts = watchInterrupts(cancel)
	defer a.interrupts.close()
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	out := &results{Writer: a.out}
	a.out = out
	cmd := a.root(args)
	cmd.SetArgs(args)
	err := cmd.ExecuteContext(ctx)
	if a.client != nil {
		a.client.Close()
	}
	if err == nil {
		err = out.lost()
	}
	return a.report(ctx, err)
}

// results is standard output. Commands print without looking back; what could
// not be written, on a full disk say, fails the command in the end.
type results struct {
	io.Writer
	failed atomic.Pointer[error] // the first
}

func (r *results) Write(p []byte) (int, error) {
	n, err := r.Writer.Write(p)
	if err != nil {
		r.failed.CompareAndSwap(nil, &err)
	}
	return n, err
}

func (r *results) lost() error {
	if err := r.failed.Load(); err != nil {
		return fmt.Errorf("the output is not complete: %w", *err)
	}
	return nil
}

// report says what went wrong, a line for each thing, and which exit code that
// is.
func (a *app) report(ctx context.Context, err error) int {
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return exitInterrupted // whoever pressed the key knows
	}
	for line := range strings.SplitSeq(strings.TrimSpace(err.Error()), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			fmt.Fprintln(a.err, "gantry:", line)
		}
	}
	return exitError
}

// warn tells what is odd and no error.
func (a *app) warn(text string) { fmt.Fprintln(a.err, "gantry: warning:", text) }

// root is the command tree, as far as the arguments need it. The flags before a command's name are its own, as
// in `gantry -f shop.yaml logs -f`; they may stand after the name as well,
// short ones where the command has no other use for the letter.
func (a *app) root(args []string) *cobra.Command {
	root := &cobra.Command{
		Use:                        "gantry",
		Short:                      "Run whole application stacks on one machine",
		Long:                       "gantry brings application stacks from their compose files to running containers,\nand keeps them there.",
		SilenceErrors:              true,
		SilenceUsage:               true,
		TraverseChildren:           true,
		SuggestionsMinimumDistance: 2,
		Args:                       cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if a.showVersion {
				return a.printVersion(cmd.Context(), versionOptions{})
			}
			if len(args) > 0 {
				return unknownCommand(a.root(nil), args[0])
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.check(cmd) },
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	})
	a.globalFlags(root.Flags(), true)
	a.globalFlags(root.PersistentFlags(), false)
	root.Flags().BoolVarP(&a.showVersion, "version", "v", false, "print the version")
	a.completeGlobal(root)

	a.addCommands(root, args)
	root.SetHelpCommandGroupID("gantry")
	return root
}

// globalFlags are those every command has.
func (a *app) globalFlags(f *pflag.FlagSet, shorthands bool) {
	short := func(letter string) string {
		if shorthands {
			return letter
		}
		return ""
	}
	f.StringArrayVarP(&a.files, "file", short("f"), nil, "compose `file`; may be given several times, \"-\" is standard input")
	f.StringVarP(&a.projectName, "project-name", short("p"), "", "project `name`")
	f.StringVar(&a.instance, "instance", "", "copy of the project, with its own `name`s, networks, volumes and ports; auto: named after the git branch (default: GANTRY_INSTANCE)")
	f.StringVar(&a.projectDir, "project-directory", "", "`directory` that relative paths start from (default: the first compose file's)")
	f.StringArrayVar(&a.profiles, "profile", nil, "`profile` to enable")
	f.StringArrayVar(&a.envFiles, "env-file", nil, "environment `file` instead of .env")
	f.StringVar(&a.progress, "progress", a.setting("COMPOSE_PROGRESS", "auto"), "how to show progress: auto, tty, plain, json, quiet")
	f.StringVar(&a.ansi, "ansi", a.setting("COMPOSE_ANSI", "auto"), "control characters: never, always, auto")
	f.IntVar(&a.parallel, "parallel", a.settingInt("COMPOSE_PARALLEL_LIMIT", -1), "how many things to do at once; -1: no bound")
	f.BoolVar(&a.dryRun, "dry-run", false, "show what would be done, and do nothing")
	f.StringVarP(&a.host, "host", short("H"), "", "`address` of the daemon (default: GANTRY_HOST, DOCKER_HOST, its own socket)")
	f.BoolVar(&a.allResources, "all-resources", false, "keep networks, volumes, secrets and configs that no service uses")
	f.BoolVar(&a.compatibility, "compatibility", false, "")
	f.StringVar(&a.projectDir, "workdir", "", "")
	f.BoolVar(&a.noANSI, "no-ansi", false, "")
	f.BoolVar(&a.verbose, "verbose", false, "")
	f.StringArrayVar(&a.insecureRegistry, "insecure-registry", nil, "")
	for _, hidden := range []string{"workdir", "no-ansi", "verbose", "insecure-registry", "compatibility", "all-resources"} {
		f.Lookup(hidden).Hidden = true
	}
}

// settle takes in what a project's .env says about gantry itself; flags and the
// environment count more.
func (a *app) settle(cmd *cobra.Command) {
	said := compose.Settings(a.source())
	if len(said) == 0 {
		return
	}
	env := a.env
	a.env = func(name string) string {
		if v := env(name); v != "" {
			return v
		}
		return said[name]
	}
	given := func(flag string) bool { // before the command's name or behind it
		return cmd.Flags().Changed(flag) || cmd.Root().Flags().Changed(flag)
	}
	if !given("progress") {
		a.progress = a.setting("COMPOSE_PROGRESS", a.progress)
	}
	if !given("ansi") {
		a.ansi = a.setting("COMPOSE_ANSI", a.ansi)
	}
	if !given("parallel") {
		a.parallel = a.settingInt("COMPOSE_PARALLEL_LIMIT", a.parallel)
	}
}

// check refuses global flags whose values mean nothing, or that the command
// could only ignore.
func (a *app) check(cmd *cobra.Command) error {
	a.settle(cmd)
	if a.noANSI {
		a.ansi = "never"
	}
	switch a.ansi {
	case "never", "always", "auto":
	default:
		return fmt.Errorf("--ansi %q: must be never, always or auto", a.ansi)
	}
	switch a.progress {
	case "", "auto", "tty", "plain", "json", "quiet":
	case "rawjson": // BuildKit's word
		if cmd.Annotations[rawJSONNote] == "" {
			return fmt.Errorf("--progress rawjson is for builds alone; use json")
		}
	default:
		return fmt.Errorf("--progress %q: must be auto, tty, plain, json or quiet", a.progress)
	}
	if a.parallel == 0 {
		return errors.New("--parallel 0: must be -1, for no bound, or at least 1")
	}
	switch {
	case a.compatibility:
		return errors.New("--compatibility: names with underscores, of Compose v1, are not supported")
	case len(a.insecureRegistry) > 0:
		return errors.New("--insecure-registry is not supported: write a hosts.toml for the registry, see the README")
	case a.dryRun && cmd.Annotations[dryRunNote] == "":
		return fmt.Errorf("--dry-run is not supported by %s", cmd.CommandPath())
	}
	return nil
}

// dryRunNote marks commands that know what --dry-run means, or change nothing.
const dryRunNote = "dry-run"

// rawJSONNote marks commands that build and show nothing else.
const rawJSONNote = "rawjson"

// dryRunnable marks commands.
func dryRunnable(commands ...*cobra.Command) {
	for _, c := range commands {
		if c.Annotations == nil {
			c.Annotations = map[string]string{}
		}
		c.Annotations[dryRunNote] = "yes"
	}
}

func unknownCommand(cmd *cobra.Command, name string) error {
	msg := fmt.Sprintf("unknown command %q", name)
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		msg += fmt.Sprintf("; did you mean %s?", strings.Join(near, " or "))
	}
	return fmt.Errorf("%s; see %s --help", msg, cmd.CommandPath())
}

// setting is an environment variable, or a default.
func (a *app) setting(name, v string) string {
	if e := a.env(name); e != "" {
		return e
	}
	return v
}

func (a *app) settingInt(name string, v int) int {
	var n int
	if _, err := fmt.Sscan(a.env(name), &n); err == nil {
		return n
	}
	return v
}

// settingBool reads a variable as docker compose does: 1, true, yes, y, on.
func (a *app) settingBool(name string) bool { return truth(a.env(name)) }

func truth(text string) bool {
	switch strings.ToLower(text) {
	case "1", "t", "true", "y", "yes", "on":
		return true
	}
	return false
}

// connect gives the daemon's client, without asking whether anybody listens.
func (a *app) connect() (*client.Client, error) {
	if a.client != nil {
		return a.client, nil
	}
	c, err := client.New(a.host)
	a.client = c
	return c, err
}

// daemon gives the client of a daemon that listens, started if need be.
func (a *app) daemon(ctx context.Context) (*client.Client, error) {
	c, err := a.connect()
	if err != nil {
		return nil, err
	}
	_, err = c.EnsureDaemon(ctx)
	return c, err
}

// source says where the project comes from, as the flags have it.
func (a *app) source() compose.Source {
	return compose.Source{
		Environ:     a.environ,
		Stdin:       a.in,
		Files:       a.files,
		ProjectDir:  a.projectDir,
		ProjectName: a.projectName,
		Instance:    a.instance,
		Profiles:    a.profiles,
		EnvFiles:    a.envFiles,
		All:         a.allResources,
		Warn:        a.warn,
	}
}
