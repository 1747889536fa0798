package cli

import (
	"context"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"gantry/client"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

type attachOptions struct {
	keys     string
	index    int
	noStdin  bool
	sigProxy bool
}

func (a *app) attachCommand() *cobra.Command {
	var o attachOptions
	cmd := &cobra.Command{
		Use:               "attach SERVICE",
		Short:             "Join the process of a service's container",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeService,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, r, err := a.replicaOf(cmd.Context(), args[0], o.index)
			if err != nil {
				return err
			}
			return a.attach(cmd.Context(), s.client, r.ID, o)
		},
	}
	o.flags(cmd)
	cmd.Flags().IntVar(&o.index, "index", 0, "number of the container, if a service has several")
	return cmd
}

func (o *attachOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&o.keys, "detach-keys", "", "`keys` that leave it (default ctrl-p,ctrl-q)")
	f.BoolVar(&o.noStdin, "no-stdin", false, "do not pass standard input on")
	f.BoolVar(&o.sigProxy, "sig-proxy", true, "pass signals on to the process")
}

// detachPatience is how long after the end of its terminal's stream a process
// that is still there counts as left.
const detachPatience = 500 * time.Millisecond

// attach joins a container's process and ends as it does. Signals go to the
// process: to end this program alone, use the detach keys.
func (a *app) attach(ctx context.Context, c *client.Client, id string, o attachOptions) error {
	d, err := c.Container(ctx, id)
	if err != nil {
		return err
	}
	stdin := !o.noStdin && d.Config != nil && d.Config.OpenStdin
	// The exit is watched for from the start, so that it is not missed.
	waiting, cancel := context.WithCancel(ctx)
	defer cancel()
	wait, err := c.WaitContainer(waiting, id, client.NotRunning)
	if err != nil {
		return err
	}
	type exit struct {
		code int
		err  error
	}
	exited := make(chan exit, 1)
	go func() {
		code, err := wait()
		exited <- exit{code, err}
	}()
	stream, err := c.Attach(ctx, id, client.AttachOptions{Stdin: stdin, Stdout: true, Stderr: true, DetachKeys: o.keys})
	if err != nil {
		return err
	}
	defer stream.Close()
	if o.sigProxy && !stream.Raw {
		defer a.proxySignals(ctx, c, id)()
	}
	resize := func(w, h uint16) { _ = c.ResizeContainer(ctx, id, w, h) }
	if err := a.converse(ctx, stream, stdin, resize); err != nil {
		return err
	}
	// The stream has ended: with the process or, if it read a terminal's keys,
	// by those that leave it. Then the process lives on.
	var leaving <-chan time.Time
	if stdin && stream.Raw {
		leaving = time.After(detachPatience)
	}
	var e exit
	select {
	case e = <-exited:
	case <-leaving:
		if d, err := c.Container(ctx, id); err == nil && d.State != nil && d.State.Running && !d.State.Restarting {
			return nil
		}
		e = <-exited
	}
	if e.err != nil || e.code == 0 {
		return e.err
	}
	return exitCode(e.code)
}

// proxySignals sends the signals this program gets to a container, until the
// function it returns is called.
func (a *app) proxySignals(ctx context.Context, c *client.Client, id string) (stop func()) {
	asked := make(chan os.Signal, 4)
	giveBack := a.interrupts.take(asked)
	others := make(chan os.Signal, 4)
	signal.Notify(others, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2)
	done, ended := make(chan struct{}), make(chan struct{})
	send := func(s os.Signal) {
		if n, ok := s.(syscall.Signal); ok {
			_ = c.KillContainer(ctx, id, strings.TrimPrefix(unix.SignalName(n), "SIG")) // it may have ended
		}
	}
	go func() {
		defer close(ended)
		for {
			select {
			case s := <-asked:
				send(s)
			case s := <-others:
				send(s)
			case <-done:
				return
			}
		}
	}()
	return func() {
		giveBack()
		signal.Stop(others)
		close(done)
		<-ended
	}
}
