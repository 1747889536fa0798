//go:build precompile

package server

import "github.com/opencontainers/runc/libcontainer/seccomp"

var compileFilter = seccomp.Compile
