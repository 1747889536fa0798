package main

import (
	"cmp"
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

	"gantry/daemon"
	"gantry/registry"
)

// serveRegistry is `gantryd registry`: this program as a registry and nothing
// else. It is here, and not in the client, because of what it links.
func serveRegistry(args []string) error {
	root := filepath.Join(daemon.Default(os.Getenv).Root, "registry")
	o := registry.Options{Log: os.Stderr}
	f := flag.NewFlagSet("gantryd registry", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.Addr, "addr", "127.0.0.1:5000", "address to serve")
	f.StringVar(&o.Root, "root", root, "directory of what is pushed")
	f.StringVar(&o.Cert, "tlscert", "", "file of the certificate")
	f.StringVar(&o.Key, "tlskey", "", "file of its key")
	f.StringVar(&o.Users, "htpasswd", "", "file of users and bcrypt hashes")
	f.BoolVar(&o.Insecure, "insecure", false, "serve other machines without TLS")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			f.SetOutput(os.Stdout)
			fmt.Println("Usage: gantryd registry [--addr HOST:PORT] [--root DIR] [--tlscert FILE --tlskey FILE] [--htpasswd FILE] [--insecure]")
			f.PrintDefaults()
			return nil
		}
		return fmt.Errorf("%w; see gantryd registry --help", err)
	}
	if f.NArg() > 0 {
		return fmt.Errorf("unknown argument %q; see gantryd registry --help", f.Arg(0))
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	return registry.Serve(ctx, o, func(at net.Addr) {
		fmt.Fprintf(os.Stderr, "serving images below %s at %s\n", cmp.Or(o.Root, "."), at)
	})
}
