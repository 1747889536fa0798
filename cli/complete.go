package cli

import (
	"context"
	"path/filepath"
	"strings"
	"time"

	"gantry/client"
	"gantry/compose"

	"github.com/spf13/cobra"
)

// completionPatience bounds what a press of the tab key may take.
const completionPatience = time.Second

const noFiles = cobra.ShellCompDirectiveNoFileComp

// globs reports whether a name matches a pattern of path/filepath.
func globs(pattern, name string) bool {
	ok, err := filepath.Match(pattern, name)
	return err == nil && ok
}

// completeServices offers the services of the compose file; without one, those
// that have containers. No daemon is ever started for it.
func (a *app) completeServices(cmd *cobra.Command, given []string, word string) ([]string, cobra.ShellCompDirective) {
	return beginning(word, without(a.serviceNames(cmd.Context()), given)), noFiles
}

// completeService offers one service, as the first argument.
func (a *app) completeService(cmd *cobra.Command, given []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 0 {
		return nil, noFiles
	}
	return a.completeServices(cmd, nil, word)
}

func (a *app) serviceNames(ctx context.Context) []string {
	ctx, cancel := patience(ctx)
	defer cancel()
	p, err := a.load(ctx, func(s *compose.Source) {
		s.NoContent, s.NoEnvResolution, s.NoConsistency, s.Warn = true, true, true, nil
	})
	if err == nil {
		names := p.ServiceNames()
		for name := range p.DisabledServices {
			names = append(names, name)
		}
		return names
	}
	name, err := a.stackName(ctx)
	if err != nil {
		return nil
	}
	c, err := a.connect()
	if err != nil {
		return nil
	}
	list, err := projectContainers(ctx, c, name)
	if err != nil {
		return nil
	}
	var names []string
	for _, r := range list {
		if len(names) == 0 || names[len(names)-1] != r.service {
			names = append(names, r.service)
		}
	}
	return names
}

// names makes a completer of what asks the daemon.
func (a *app) names(ask func(context.Context, *client.Client) ([]string, error)) completer {
	return func(cmd *cobra.Command, given []string, word string) ([]string, cobra.ShellCompDirective) {
		ctx, cancel := patience(cmd.Context())
		defer cancel()
		c, err := a.connect()
		if err != nil {
			return nil, noFiles
		}
		all, err := ask(ctx, c)
		if err != nil {
			return nil, noFiles
		}
		return beginning(word, without(all, given)), noFiles
	}
}

// patience bounds a completion; cobra gives it no context of its own.
func patience(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx == nil {
		ctx = context.Background()
	}
	return context.WithTimeout(ctx, completionPatience)
}

func (a *app) completeContainers(cmd *cobra.Command, given []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.names(func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Containers(ctx, client.ListOptions{All: true})
		var names []string
		for _, ct := range list {
			names = append(names, asReplica(ct).name)
		}
		return names, err
	})(cmd, given, word)
}

func (a *app) completeImages(cmd *cobra.Command, given []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.names(func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Images(ctx, false, nil)
		var names []string
		for _, img := range list {
			for _, name := range img.RepoTags {
				names = append(names, strings.TrimSuffix(name, ":latest"))
			}
		}
		return names, err
	})(cmd, given, word)
}

func (a *app) completeNetworks(cmd *cobra.Command, given []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.names(func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Networks(ctx, nil)
		var names []string
		for _, n := range list {
			names = append(names, n.Name)
		}
		return names, err
	})(cmd, given, word)
}

func (a *app) completeVolumes(cmd *cobra.Command, given []string, word string) ([]string, cobra.ShellCompDirective) {
	return a.names(func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Volumes(ctx, nil)
		var names []string
		for _, v := range list {
			names = append(names, v.Name)
		}
		return names, err
	})(cmd, given, word)
}

// completeFlagServices offers services as values of flags.
func (a *app) completeFlagServices(cmd *cobra.Command, flags ...string) {
	for _, f := range flags {
		_ = cmd.RegisterFlagCompletionFunc(f, func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
			return a.completeServices(cmd, nil, word)
		})
	}
}

// completeFlagValues offers fixed values of a flag.
func (a *app) completeFlagValues(cmd *cobra.Command, flag string, values ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return beginning(word, values), noFiles
	})
}

// completeFlagFiles leaves a flag to the shell, which knows what files there
// are: those with an extension, directories, or all.
func (a *app) completeFlagFiles(cmd *cobra.Command, flag string, which cobra.ShellCompDirective, extensions ...string) {
	_ = cmd.RegisterFlagCompletionFunc(flag, func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return extensions, which
	})
}

// completeGlobal offers values of the flags every command has. Before the
// command's name they are flags of root alone, behind it those that it hands
// down, which a command of its shows.
func (a *app) completeGlobal(root *cobra.Command) {
	behind := &cobra.Command{}
	root.AddCommand(behind)
	defer root.RemoveCommand(behind)
	for _, cmd := range []*cobra.Command{root, behind} {
		a.completeGlobalOf(cmd)
	}
}

func (a *app) completeGlobalOf(cmd *cobra.Command) {
	a.completeFlagValues(cmd, "progress", "auto", "tty", "plain", "json", "quiet")
	a.completeFlagValues(cmd, "ansi", "auto", "never", "always")
	a.completeFlagFiles(cmd, "file", cobra.ShellCompDirectiveFilterFileExt, "yaml", "yml")
	a.completeFlagFiles(cmd, "env-file", cobra.ShellCompDirectiveDefault)
	a.completeFlagFiles(cmd, "project-directory", cobra.ShellCompDirectiveFilterDirs)
	_ = cmd.RegisterFlagCompletionFunc("instance", a.completeInstance)
	_ = cmd.RegisterFlagCompletionFunc("profile", func(cmd *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		p, err := a.load(cmd.Context(), func(s *compose.Source) {
			s.NoContent, s.NoEnvResolution, s.NoConsistency, s.Warn = true, true, true, nil
		})
		if err != nil {
			return nil, noFiles
		}
		return beginning(word, compose.Profiles(p)), noFiles
	})
	_ = cmd.RegisterFlagCompletionFunc("project-name", a.names(func(ctx context.Context, c *client.Client) ([]string, error) {
		list, err := c.Projects(ctx)
		var names []string
		for _, p := range list {
			names = append(names, p.Name)
		}
		return names, err
	}))
}

func beginning(word string, all []string) []string {
	var out []string
	for _, s := range all {
		if strings.HasPrefix(s, word) {
			out = append(out, s)
		}
	}
	return out
}

func without(all, given []string) []string {
	seen := map[string]bool{}
	for _, g := range given {
		seen[g] = true
	}
	var out []string
	for _, s := range all {
		if !seen[s] {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// completionCommand writes a shell's completion script.
func (a *app) completionCommand() *cobra.Command {
	cmd := noun("completion", "Write a shell's completion script")
	cmd.Long = "Write a completion script for a shell:\n\n" +
		"  gantry completion bash > /usr/share/bash-completion/completions/gantry\n" +
		"  gantry completion zsh  > /usr/share/zsh/site-functions/_gantry\n" +
		"  gantry completion fish > /usr/share/fish/vendor_completions.d/gantry.fish"
	for shell, write := range map[string]func(*cobra.Command) error{
		"bash": func(root *cobra.Command) error { return root.GenBashCompletionV2(a.out, true) },
		"zsh":  func(root *cobra.Command) error { return root.GenZshCompletion(a.out) },
		"fish": func(root *cobra.Command) error { return root.GenFishCompletion(a.out, true) },
	} {
		c := &cobra.Command{
			Use:               shell,
			Short:             "For " + shell,
			Args:              cobra.NoArgs,
			ValidArgsFunction: cobra.NoFileCompletions,
			RunE:              func(cmd *cobra.Command, _ []string) error { return write(cmd.Root()) },
		}
		dryRunnable(c)
		cmd.AddCommand(c)
	}
	return cmd
}
