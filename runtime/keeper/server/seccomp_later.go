//go:build !precompile

package server

import "github.com/opencontainers/runc/libcontainer/configs"

// compileFilter is nil in a plain build: processes compile their own filters.
var compileFilter func(*configs.Seccomp) (string, error)
