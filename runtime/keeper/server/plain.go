//go:build !precompile

package server

import (
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
)

// compileFilter is nil in a plain build: processes compile their own filters.
var compileFilter func(*configs.Seccomp) (string, error)

// entranceOf gives none in a plain build: execs are the library's.
func entranceOf(*libcontainer.Container) (entrance, error) { return nil, nil }
