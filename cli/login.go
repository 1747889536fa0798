package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"gantry/client"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// maxPassword bounds what is read of a password.
const maxPassword = 64 << 10

func (a *app) loginCommand() *cobra.Command {
	var username, password string
	var fromInput bool
	cmd := &cobra.Command{
		Use:   "login [SERVER]",
		Short: "Log in to a registry",
		Long: "Log in to a registry, Docker Hub if none is named. The daemon checks the name\nand the password and keeps neither; they are kept where docker keeps them:\n" +
			"in ~/.docker/config.json, or with the credential helper that it names.",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("password") {
				return errors.New("--password: a password among the arguments is seen by everybody on the machine; use --password-stdin")
			}
			server := ""
			if len(args) > 0 {
				server = args[0]
			}
			return a.login(cmd.Context(), server, username, fromInput)
		},
	}
	f := cmd.Flags()
	f.StringVarP(&username, "username", "u", "", "user `name`")
	f.BoolVar(&fromInput, "password-stdin", false, "read the password from standard input")
	f.StringVarP(&password, "password", "p", "", "")
	f.Lookup("password").Hidden = true
	return cmd
}

func (a *app) login(ctx context.Context, server, username string, fromInput bool) error {
	var password string
	var err error
	switch {
	case fromInput && username == "":
		return errors.New("--password-stdin needs --username")
	case fromInput:
		password, err = readPassword(a.in)
	case !isTerminal(a.in):
		return errors.New("there is no terminal to ask for the password: use --username and --password-stdin")
	default:
		username, password, err = a.askLogin(ctx, username)
	}
	if err != nil {
		return err
	}
	if username == "" || password == "" {
		return errors.New("login: a user name and a password are needed")
	}
	c, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	where, err := c.Login(ctx, server, username, password)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(where, "docker-credential-") {
		a.warn("the login is kept in " + where + ", not encrypted; a credential helper (credsStore in that file) keeps it safe")
	}
	fmt.Fprintln(a.out, "Login Succeeded")
	return nil
}

// readPassword takes all there is, but for the end of a last line.
func readPassword(in io.Reader) (string, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxPassword+1))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	if len(text) > maxPassword {
		return "", fmt.Errorf("the password is longer than %d bytes", maxPassword)
	}
	return strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r"), nil
}

// askLogin asks on the terminal; the password is not shown.
func (a *app) askLogin(ctx context.Context, username string) (string, string, error) {
	fd := int(descriptor(a.in).Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return "", "", fmt.Errorf("terminal: %w", err)
	}
	// However this ends, what is typed is shown again.
	tidy := a.interrupts.tidying(func() { _ = term.Restore(fd, before) })
	defer tidy()
	type answer struct {
		username, password string
		err                error
	}
	answered := make(chan answer, 1)
	go func() { // left behind at its read if ctx ends first: the program ends then
		got := answer{username: username}
		if username == "" {
			fmt.Fprint(a.err, "Username: ")
			line, err := bufio.NewReader(a.in).ReadString('\n')
			if got.username, got.err = strings.TrimSpace(line), err; err != nil {
				answered <- got
				return
			}
		}
		fmt.Fprint(a.err, "Password: ")
		text, err := term.ReadPassword(fd)
		got.password, got.err = string(text), err
		answered <- got
	}()
	select {
	case got := <-answered:
		fmt.Fprintln(a.err)
		if got.err != nil {
			return "", "", fmt.Errorf("read name and password: %w", got.err)
		}
		return got.username, got.password, nil
	case <-ctx.Done():
		fmt.Fprintln(a.err)
		return "", "", context.Cause(ctx)
	}
}

func (a *app) logoutCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "logout [SERVER]",
		Short:             "Forget the login to a registry",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: cobra.NoFileCompletions,
		RunE: func(cmd *cobra.Command, args []string) error {
			server := client.Server("")
			if len(args) > 0 {
				server = client.Server(args[0])
			}
			logins, err := client.LoadLogins()
			if err != nil {
				return err
			}
			found, err := logins.Forget(cmd.Context(), server)
			if err != nil {
				return err
			}
			if !found {
				fmt.Fprintln(a.out, "Not logged in to", server)
				return nil
			}
			fmt.Fprintln(a.out, "Removed the login to", server)
			return nil
		},
	}
}
