// Command gantryd is gantry's daemon.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"gantry/client/build"
	"gantry/client/build/kit"
	"gantry/daemon"
	"gantry/runtime/logs"
)

// Set by the linker.
var version, commit, built = "dev", "", ""

func main() {
	if len(os.Args) == 2 && os.Args[1] == build.Verb {
		os.Exit(kit.Serve(connect)) // not the daemon, but gantry's builder
	}
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gantryd:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	c := daemon.Default(os.Getenv)
	c.Version = daemon.Version{Number: version, Commit: commit, Built: built}
	f := flag.NewFlagSet("gantryd", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.Root, "root", c.Root, "directory of what is kept")
	f.StringVar(&c.Run, "run", c.Run, "directory of what is gone with the next boot")
	f.StringVar(&c.Certs, "certs", c.Certs, "directory that says how registries are reached: HOST/hosts.toml, as containerd's")
	f.BoolVar(&c.Debug, "debug", false, "log more")
	f.StringVar(&c.Budget.MaxUsed, "max-used-space", c.Budget.MaxUsed, "what build cache and images without a name may take before some is collected, such as 20GB or 25% of the disk (default 25%)")
	f.StringVar(&c.Budget.MinFree, "min-free-space", c.Budget.MinFree, "what is to stay free on the disk at their cost (default 10%)")
	f.StringVar(&c.Budget.Unused, "unused-for", c.Budget.Unused, "how long nobody must have used what is collected (default 1h)")
	f.StringVar(&c.Measure, "measure", c.Measure, "how often the usage of autoscaled services is measured (default 15s)")
	show := f.Bool("version", false, "print the version and exit")
	var hosts []string
	f.Func("host", "address to serve the API on (default unix://RUN/gantry.sock); may be given several times", func(h string) error {
		hosts = append(hosts, h)
		return nil
	})
	f.BoolVar(&c.TLS.Verify, "tlsverify", false, "on tcp addresses, take only clients with a certificate; they are served no other way")
	f.StringVar(&c.TLS.CA, "tlscacert", "", "file of the authority that signs clients' certificates")
	f.StringVar(&c.TLS.Cert, "tlscert", "", "file of the daemon's certificate")
	f.StringVar(&c.TLS.Key, "tlskey", "", "file of the daemon's key")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			f.SetOutput(os.Stdout)
			fmt.Println("Usage: gantryd [--root DIR] [--run DIR] [--certs DIR] [--host ADDRESS]... [--tlsverify --tlscacert FILE --tlscert FILE --tlskey FILE] [--max-used-space SIZE] [--min-free-space SIZE] [--unused-for DURATION] [--debug] [--version]")
			f.PrintDefaults()
			return nil
		}
		return fmt.Errorf("%w; see gantryd --help", err)
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; see gantryd --help", f.Arg(0))
	}
	if *show {
		fmt.Println("gantryd", version, commit)
		return nil
	}
	if len(hosts) > 0 {
		c.Hosts = hosts
	}
	level := slog.LevelInfo
	if c.Debug {
		level = slog.LevelDebug
	}
	own := logs.OpenOwn(c.LogFile(), logs.OwnSize)
	c.Log = slog.New(slog.NewTextHandler(own, &slog.HandlerOptions{Level: level, ReplaceAttr: plain}))

	starter := daemon.Starter(c.Log)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	err := daemon.Run(ctx, c, starter.Ready)
	starter.Failed(err)
	return err
}

// plain has an error say what it says, without the stack that some libraries'
// errors bring along.
func plain(_ []string, a slog.Attr) slog.Attr {
	if err, is := a.Value.Any().(error); is && err != nil {
		a.Value = slog.StringValue(err.Error())
	}
	return a
}
