//go:build precompile

package server

import (
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/seccomp"
)

var compileFilter = seccomp.Compile

func entranceOf(c *libcontainer.Container) (entrance, error) {
	e, err := c.Entrance()
	if e == nil { // and not an entrance that is nil
		return nil, err
	}
	return e, nil
}
