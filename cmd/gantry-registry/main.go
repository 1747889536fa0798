// Command gantry-registry serves a registry for images and does nothing else.
// It is `gantry registry serve`, which executes it: a program of its own, so
// that nobody who serves no registry has its library in memory.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"gantry/registry"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "gantry-registry:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	root := "/var/lib/gantry"
	if r := os.Getenv("GANTRY_ROOT"); r != "" {
		root = r
	}
	o := registry.Options{Log: os.Stderr}
	f := flag.NewFlagSet("gantry-registry", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.Addr, "addr", "127.0.0.1:5000", "address to serve")
	f.StringVar(&o.Root, "root", filepath.Join(root, "registry"), "directory of what is pushed")
	f.StringVar(&o.Cert, "tlscert", "", "file of the certificate")
	f.StringVar(&o.Key, "tlskey", "", "file of its key")
	f.StringVar(&o.Users, "htpasswd", "", "file of users and bcrypt hashes")
	f.BoolVar(&o.Insecure, "insecure", false, "serve other machines without TLS")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			f.SetOutput(os.Stdout)
			fmt.Println("Usage: gantry-registry [--addr HOST:PORT] [--root DIR] [--tlscert FILE --tlskey FILE] [--htpasswd FILE] [--insecure]")
			f.PrintDefaults()
			return nil
		}
		return fmt.Errorf("%w; see gantry-registry --help", err)
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; see gantry-registry --help", f.Arg(0))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return registry.Serve(ctx, o, func(at net.Addr) {
		fmt.Fprintf(os.Stderr, "serving images below %s at %s\n", o.Root, at)
	})
}
