package main

import (
	"context"

	"gantry/client"
	"gantry/client/build/kit"
)

// connect makes the daemon that a build is for of its address. The caller's
// logins are read when a registry asks for one.
func connect(host string) (kit.Daemon, error) {
	c, err := client.New(host)
	if err != nil {
		return kit.Daemon{}, err
	}
	return kit.Daemon{Control: c.Builder, Session: c.BuildSession, Login: login}, nil
}

func login(ctx context.Context, registry string) (kit.Login, error) {
	logins, err := client.LoadLogins()
	if err != nil {
		return kit.Login{}, err
	}
	a, err := logins.For(ctx, client.Server(registry))
	return kit.Login{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken}, err
}
