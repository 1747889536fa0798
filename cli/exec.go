package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"gantry/client"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

type execOptions struct {
	detach, noTTY, tty, interactive, privileged bool
	env                                         []string
	user, workdir                               string
	index                                       int
	chosenTTY                                   bool // by a flag
}

func (a *app) execCommand() *cobra.Command {
	var o execOptions
	cmd := &cobra.Command{
		Use:   "exec [OPTIONS] SERVICE COMMAND [ARG...]",
		Short: "Run a command in a running container",
		Args:  cobra.MinimumNArgs(2),

		DisableFlagsInUseLine: true, // [OPTIONS] says where they stand
		ValidArgsFunction: func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeServices(cmd, args, word)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.chosenTTY = cmd.Flags().Changed("tty")
			ctx := cmd.Context()
			s, r, err := a.replicaOf(ctx, args[0], o.index)
			if err != nil {
				return err
			}
			return a.exec(ctx, s.client, r.ID, args[1:], o)
		},
	}
	cmd.Flags().SetInterspersed(false) // what follows the service is the command's own
	o.flags(cmd)
	f := cmd.Flags()
	f.BoolVarP(&o.noTTY, "no-tty", "T", false, "no terminal for the command (default where this one has none)")
	f.IntVar(&o.index, "index", 0, "number of the container, if a service has several")
	f.Lookup("interactive").Hidden, f.Lookup("tty").Hidden = true, true
	return cmd
}

func (o *execOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&o.detach, "detach", "d", false, "leave the command running in the background")
	f.StringArrayVarP(&o.env, "env", "e", nil, "`NAME=VALUE` in the command's environment; NAME alone passes it on")
	f.BoolVarP(&o.interactive, "interactive", "i", true, "pass standard input on")
	f.BoolVarP(&o.tty, "tty", "t", true, "a terminal for the command")
	f.BoolVar(&o.privileged, "privileged", false, "with all privileges")
	f.StringVarP(&o.user, "user", "u", "", "as this `user[:group]`")
	f.StringVarP(&o.workdir, "workdir", "w", "", "in this `directory`")
}

// passEnv gives names without a value that of the caller; one the caller does
// not have is left out.
func (a *app) passEnv(pairs []string) []string {
	var out []string
	for _, p := range pairs {
		if strings.Contains(p, "=") {
			out = append(out, p)
			continue
		}
		for _, own := range a.environ {
			if strings.HasPrefix(own, p+"=") {
				out = append(out, own)
			}
		}
	}
	return out
}

// exec runs a command in a container and ends as it does.
func (a *app) exec(ctx context.Context, c *client.Client, id string, command []string, o execOptions) error {
	tty := o.tty && !o.noTTY && !o.detach
	if !o.chosenTTY {
		tty = tty && isTerminal(a.in) && isTerminal(a.out)
	}
	eo := client.ExecOptions{Command: command, Env: a.passEnv(o.env), WorkingDir: o.workdir, User: o.user, Privileged: o.privileged, TTY: tty}
	if !o.detach {
		eo.Stdin, eo.Stdout, eo.Stderr = o.interactive, true, true
	}
	if tty {
		w, h := terminalSize(a.out)
		eo.Width, eo.Height = uint16(w), uint16(h)
	}
	exec, err := c.CreateExec(ctx, id, eo)
	if err != nil {
		return err
	}
	if o.detach {
		if err := c.StartExec(ctx, exec, eo); err != nil {
			return a.notStarted(ctx, c, exec, err)
		}
		return nil
	}
	stream, err := c.AttachExec(ctx, exec, eo)
	if err != nil {
		return a.notStarted(ctx, c, exec, err)
	}
	defer stream.Close()
	resize := func(w, h uint16) { _ = c.ResizeExec(ctx, exec, w, h) } // too late is no harm
	if err := a.converse(ctx, stream, o.interactive, resize); err != nil {
		return err
	}
	x, err := c.Exec(ctx, exec)
	return execEnd(x, err)
}

// execEnd is how a command ended, as the daemon tells it when its output has
// ended.
func execEnd(x client.Exec, err error) error {
	switch {
	case errdefs.IsNotFound(err): // the daemon of now is another one
		return errors.New("the daemon ended while the command ran, and the connection with it: its exit code is not known")
	case err != nil:
		return err
	case x.ExitCode == nil && x.Running:
		return nil // left by the detach keys
	case x.ExitCode == nil:
		return errors.New("the exit code of the command is not known")
	case *x.ExitCode != 0:
		return exitCode(*x.ExitCode)
	}
	return nil
}

// notStarted ends as a shell does with a command that cannot be run: 127 when
// it is not there, 126 when it is and does not run.
func (a *app) notStarted(ctx context.Context, c *client.Client, exec string, err error) error {
	if errdefs.IsConflict(err) || errdefs.IsUnavailable(err) {
		return err
	}
	x, lookErr := c.Exec(ctx, exec)
	if lookErr != nil || x.ExitCode == nil || *x.ExitCode == 0 {
		return err
	}
	fmt.Fprintln(a.err, "gantry:", oneLine(err))
	return exitCode(*x.ExitCode)
}

// converse joins this program's standard streams with those of a process until
// it ends. A process with a terminal gets this one, raw, and hears of its size.
func (a *app) converse(ctx context.Context, stream *client.Stream, stdin bool, resize func(w, h uint16)) error {
	if stream.Raw && isTerminal(a.out) {
		changes := make(chan os.Signal, 1)
		signal.Notify(changes, syscall.SIGWINCH)
		done := make(chan struct{})
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for {
				w, h := terminalSize(a.out)
				resize(uint16(w), uint16(h))
				select {
				case <-changes:
				case <-done:
					return
				}
			}
		}()
		defer func() {
			signal.Stop(changes)
			close(done)
			<-ended
		}()
	}
	if stream.Raw && stdin && isTerminal(a.in) {
		fd := int(descriptor(a.in).Fd())
		before, err := term.MakeRaw(fd)
		if err != nil {
			return fmt.Errorf("make the terminal raw: %w", err)
		}
		defer a.interrupts.tidying(func() { _ = term.Restore(fd, before) })()
	}
	if stdin {
		go func() { // ends with its input or the stream; a read of a terminal cannot be called off
			_, _ = io.Copy(stream, a.in)
			_ = stream.CloseWrite()
		}()
	}
	copied := make(chan error, 1)
	go func() { copied <- stream.Copy(a.out, a.err) }()
	select {
	case err := <-copied:
		return err
	case <-ctx.Done():
		stream.Close()
		<-copied
		return context.Cause(ctx)
	}
}
