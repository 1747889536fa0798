package cli

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The flags of docker compose's commands, as a table of markdown lists them.
type listed struct {
	name, short, kind string
	hidden            bool
}

// composeFlags reads the list of docker compose's commands and flags.
func composeFlags(t *testing.T) map[string][]listed {
	t.Helper()
	shared := os.Getenv("GANTRY_SHARED")
	if shared == "" {
		shared = "../../shared"
	}
	text, err := os.ReadFile(filepath.Join(shared, "compose_cli.md"))
	if err != nil {
		t.Skipf("needs the list of docker compose's flags: set GANTRY_SHARED to the directory of compose_cli.md: %v", err)
	}
	head := regexp.MustCompile(`^## docker compose ?(.*)$`)
	row := regexp.MustCompile(`^\| (?:-(\w), )?--([\w-]+) \| (\w+) \|[^|]*\|([^|]*)\|`)
	all := map[string][]listed{}
	command := "?"
	for line := range strings.SplitSeq(string(text), "\n") {
		if strings.HasPrefix(line, "## ") {
			command = "?"
		}
		if m := head.FindStringSubmatch(line); m != nil {
			command = m[1]
			all[command] = nil
		} else if m := row.FindStringSubmatch(line); m != nil && command != "?" {
			all[command] = append(all[command], listed{m[2], m[1], m[3], strings.Contains(m[4], "hid")})
		}
	}
	return all
}

// kinds of values: a flag that takes none must take none here, too.
func takesValue(kind string) bool { return kind != "bool" }

func TestEveryFlagOfDockerCompose(t *testing.T) {
	all := composeFlags(t)
	a := &app{env: func(string) string { return "" }}
	root := a.root(nil)
	checked := 0
	for name, flags := range all {
		words := strings.Fields(name)
		cmd, rest, err := root.Find(words)
		if err != nil || cmd == root && len(words) > 0 {
			t.Errorf("there is no command %q", name)
			continue
		}
		if cmd.DisableFlagParsing {
			continue // not supported yet: refused by name, whatever its flags
		}
		if len(rest) > 0 {
			t.Errorf("%q is taken for %q", name, cmd.CommandPath())
			continue
		}
		for _, f := range flags {
			own := cmd.Flags().Lookup(f.name)
			if own == nil {
				own = cmd.InheritedFlags().Lookup(f.name)
			}
			checked++
			switch {
			case own == nil:
				t.Errorf("%s: no flag --%s", name, f.name)
			case own.Shorthand != f.short:
				t.Errorf("%s: --%s has the letter %q, want %q", name, f.name, own.Shorthand, f.short)
			case takesValue(own.Value.Type()) != takesValue(f.kind):
				t.Errorf("%s: --%s is a %s, want a %s", name, f.name, own.Value.Type(), f.kind)
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d flags were checked: the list was not understood", checked)
	}
}

// Every command of docker compose that is not there yet says so.
func TestNotSupportedYet(t *testing.T) {
	for _, name := range []string{"alpha", "bridge", "commit", "publish", "run", "watch"} {
		for _, args := range [][]string{{name}, {name, "--whatever", "x"}, {"-f", "none.yaml", name, "-h"}} {
			if r := run(t, nil, args...); r.code != 1 || !strings.Contains(r.err, "`gantry "+name+"` is not supported yet") || r.out != "" {
				t.Errorf("%v: got %+v", args, r)
			}
		}
	}
}

func TestHelpAndArguments(t *testing.T) {
	for _, tt := range []struct {
		args string
		code int
		want string
	}{
		{"help", 0, "Looking at them:"},
		{"help image load", 0, "gantry image load [ARCHIVE] [flags]"},
		{"help nope", 1, `unknown command "nope"`},
		{"help image nope", 1, `unknown command "nope"; see gantry image --help`},
		{"image", 0, "gantry image [OPTIONS] COMMAND"},
		{"up --help", 0, "Flags that every command has, such as -f, -p and --profile: gantry --help"},
		{"port web", 1, "gantry: wrong number of arguments (1); usage: gantry port SERVICE PRIVATE_PORT [flags]\n"},
		{"exec web", 1, "usage: gantry exec [OPTIONS] SERVICE COMMAND [ARG...]\n"},
		{"ls shop", 1, "wrong number of arguments (1); usage: gantry ls [flags]\n"},
		{"image tag one", 1, "usage: gantry image tag "},
	} {
		r := run(t, nil, strings.Fields(tt.args)...)
		if r.code != tt.code || !strings.Contains(r.out+r.err, tt.want) {
			t.Errorf("%s: got %+v, want %q", tt.args, r, tt.want)
		}
	}
}

// What a flag asks for is done or refused by name, never ignored.
func TestRefusedFlags(t *testing.T) {
	file := composeFile(t, "services: {web: {image: busybox}}")
	for _, tt := range []struct {
		args string
		want string
	}{
		{"up --build --no-build", "--build and --no-build cannot be combined"},
		{"up --watch", "--watch is not supported yet"},
		{"up --menu", "--menu is not supported yet"},
		{"up --pull newer", "--pull newer is not supported"},
		{"up --pull sometimes", `--pull "sometimes": must be always, missing, never, build or policy`},
		{"pull --policy never", `--policy "never": must be missing or always`},
		{"login -u anna -p hunter2", "--password: a password among the arguments is seen by everybody"},
		{"login --password-stdin", "--password-stdin needs --username"},
		{"image search --limit 0 x", "--limit 0: must be from 1 to 100"},
		{"up --force-recreate --no-recreate", "--force-recreate and --no-recreate cannot be combined"},
		{"up -d --abort-on-container-exit", "cannot be combined"},
		{"up --scale web", `"web": must be SERVICE=NUMBER`},
		{"up --scale web=-1", `"web=-1": must be SERVICE=NUMBER`},
		{"up --scale db=2", "--scale db=2: project"},
		{"up --exit-code-from db", "--exit-code-from db: project"},
		{"up -t -1", "must not be negative"},
		{"up nosuch", "nosuch"},
		{"down --rmi some", `--rmi "some": must be local or all`},
		{"ps --filter name=x", "only status=STATE can be filtered by"},
		{"ps --status up", `--status "up": must be one of`},
		{"config --format toml", `--format "toml": must be yaml or json`},
		{"logs --since yesterday", `--since "yesterday": must be a time`},
		{"logs -n some", `--tail "some": must be a number of lines or all`},
		{"logs --index 2", "--index needs the name of one service"},
		{"port web http", `port "http": must be a number up to 65535`},
		{"port --protocol sctp web 80", `--protocol "sctp": must be tcp or udp`},
		{"--ansi sometimes ps", `--ansi "sometimes": must be never, always or auto`},
		{"--progress loud ps", `--progress "loud": must be auto, tty, plain, json or quiet`},
		{"--parallel 0 ps", "--parallel 0: must be -1"},
		{"--compatibility ps", "--compatibility"},
		{"--insecure-registry r ps", "--insecure-registry is not supported"},
		{"--dry-run exec web true", "--dry-run is not supported by gantry exec"},
		{"--dry-run image rm x", "--dry-run is not supported by gantry image rm"},
		{"network create --gateway 10.0.0.1 x", "need a --subnet"},
		{"network create --subnet 10.0.0.0/24 --gateway 10.1.0.1 x", "--gateway 10.1.0.1: no --subnet holds it"},
		{"image build nosuch", "build context nosuch: no such directory"},
		{"image nosuch", `unknown command "nosuch"`},
		{"nosuch", `unknown command "nosuch"`},
		{"lgos", `did you mean logs`},
		{"lgos ps", `did you mean logs`},
		{"up --nosuch", "unknown flag: --nosuch; see gantry up --help"},
		{"container ls --filter x", `--filter "x": must be key=value`},
	} {
		r := run(t, nil, append([]string{"--host", "unix:///nowhere.sock", "-f", file}, strings.Fields(tt.args)...)...)
		if r.code != 1 || !strings.Contains(r.err, tt.want) || !strings.HasPrefix(r.err, "gantry: ") || r.out != "" {
			t.Errorf("%s: got %+v, want %q", tt.args, r, tt.want)
		}
	}
}

// Global flags may stand before the command and after it.
func TestGlobalFlagsStandAnywhere(t *testing.T) {
	file := composeFile(t, "name: one\nservices: {web: {image: busybox}}")
	for _, args := range [][]string{
		{"-f", file, "config", "--services"},
		{"config", "-f", file, "--services"},
		{"config", "--file", file, "--services"},
		{"-p", "two", "-f", file, "config", "--services"},
	} {
		if r := run(t, nil, args...); r.code != 0 || r.out != "web\n" {
			t.Errorf("%v: got %+v", args, r)
		}
	}
	// A command's own letter wins after its name.
	a := &app{env: func(string) string { return "" }}
	root := a.root(nil)
	cmd, rest, err := root.Traverse([]string{"-f", file, "logs", "-f", "web"})
	if err != nil || cmd.Name() != "logs" || !slices.Equal(rest, []string{"-f", "web"}) || !slices.Equal(a.files, []string{file}) {
		t.Errorf("got %s %v, files %v, %v", cmd.Name(), rest, a.files, err)
	}
}

// Every command says what it is for, and its flags do.
func TestEverythingIsExplained(t *testing.T) {
	a := &app{env: func(string) string { return "" }}
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		if cmd.Short == "" {
			t.Errorf("%s has no description", cmd.CommandPath())
		}
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" && !f.Hidden {
				t.Errorf("%s: --%s has no description", cmd.CommandPath(), f.Name)
			}
		})
		for _, c := range cmd.Commands() {
			walk(c)
		}
	}
	walk(a.root(nil))
}
