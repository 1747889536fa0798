package spec

import (
	"cmp"
	"path"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ExecConfig is a further process in a running container.
type ExecConfig struct {
	ID            string // the container's, for its host name
	Args          []string
	Env           []string // over the container's; a bare NAME removes
	WorkingDir    string   // "": the container's
	User          string   // "": the container's
	TTY           bool
	Privileged    bool // every capability of the host
	Width, Height uint16
	Capabilities  []string // added, as Config.CapAdd
}

// Exec makes the process of an exec in a container that was built from c. The
// user is left to be looked up, as by [Build].
func Exec(c Config, e ExecConfig, h Host) (*specs.Process, error) {
	if len(e.Args) == 0 || e.Args[0] == "" {
		return nil, refuse("exec", "there is no command: give one")
	}
	if e.WorkingDir != "" && !absolute(e.WorkingDir) {
		return nil, refuse("exec", "the working directory %q is not an absolute path in the container", e.WorkingDir)
	}
	if err := checkText("exec", e.Args, e.Env); err != nil {
		return nil, err
	}
	if e.Privileged {
		c.Privileged = true
	}
	c.CapAdd = slices.Concat(c.CapAdd, e.Capabilities)
	if err := checkPrivileges(c, h); err != nil {
		return nil, err
	}
	c.Env = mergeEnv(c.Env, e.Env)
	p := &specs.Process{
		Terminal:        e.TTY,
		User:            userSpec(cmp.Or(e.User, c.User)),
		Args:            slices.Clone(e.Args),
		Env:             environment(c, e.ID, h, e.TTY),
		Cwd:             path.Clean(cmp.Or(e.WorkingDir, c.WorkingDir, "/")),
		Capabilities:    processCapabilities(boundingSet(c, h)),
		Rlimits:         posixLimits(c, h),
		NoNewPrivileges: c.NoNewPrivileges,
		ApparmorProfile: apparmorProfile(c, h),
	}
	if e.TTY && e.Width > 0 && e.Height > 0 {
		p.ConsoleSize = &specs.Box{Width: uint(e.Width), Height: uint(e.Height)}
	}
	return p, nil
}
