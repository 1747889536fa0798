package cli

import (
	"fmt"
	"os"
	"syscall"

	"gantry/client"

	"github.com/spf13/cobra"
)

func (a *app) registryCommand() *cobra.Command {
	registry := noun("registry", "A registry of one's own")
	var addr, root, cert, key, users string
	var insecure bool
	serve := &cobra.Command{
		Use:   "serve",
		Short: "Serve a registry from this machine, until interrupted",
		Long: "Serve a registry from this machine, until interrupted. It serves this machine\nalone, unless another address is given; then it wants a certificate, or to be told\n" +
			"that it may do without. It needs no daemon and no root.",
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(*cobra.Command, []string) error {
			program, err := client.Program("gantry-registry")
			if err != nil {
				return err
			}
			args := []string{program, "--addr", addr}
			for flag, value := range map[string]string{"--root": root, "--tlscert": cert, "--tlskey": key, "--htpasswd": users} {
				if value != "" {
					args = append(args, flag, value)
				}
			}
			if insecure {
				args = append(args, "--insecure")
			}
			// The library behind it is larger than all of this program, which
			// becomes the one that has it.
			return fmt.Errorf("execute %s: %w", program, syscall.Exec(program, args, os.Environ()))
		},
	}
	f := serve.Flags()
	f.StringVar(&addr, "addr", "127.0.0.1:5000", "`address` to serve")
	f.StringVar(&root, "root", "", "`directory` of what is pushed (default: GANTRY_ROOT/registry)")
	f.StringVar(&cert, "tlscert", "", "`file` of the certificate")
	f.StringVar(&key, "tlskey", "", "`file` of its key")
	f.StringVar(&users, "htpasswd", "", "`file` of users with bcrypt hashes, who alone are let in")
	f.BoolVar(&insecure, "insecure", false, "serve other machines without TLS")
	registry.AddCommand(serve)
	return registry
}
