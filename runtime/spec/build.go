package spec

import (
	"syscall"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Files are the host paths of the files generated for one container; an empty
// one is not mounted. A mount of the user's on the same target wins.
type Files struct{ Hostname, Hosts, ResolvConf string }

// Input is everything [Build] makes a specification from.
type Input struct {
	ID     string
	Config Config // merged with its image
	Host   Host

	CgroupsPath string // absolute, below the root of every hierarchy

	// Namespaces to join, as paths. NetNS "" is the host's; the others ""
	// mean what Config's modes say.
	NetNS, PidNS, IpcNS, UTSNS string

	Files  Files
	Mounts []Mount // Config.Mounts with volumes and files resolved to bind mounts of host paths

	// Nodes are the host's device nodes: those at and below the paths that
	// Config.Devices and Config.Resources name, and all of /dev when
	// privileged.
	Nodes []Node

	InitPath string // program mounted at /sbin/docker-init for Config.Init
}

// Build makes the OCI runtime specification of a container, by Docker's rules.
//
// Root.Path is left empty. Process.User.Username is Config.User as written:
// names can only be resolved inside the root filesystem, by whoever mounts it,
// who also adds HOME to the environment. Numbers in it are already in UID and
// GID. Config must have passed [Config.Validate].
func Build(in Input) (*specs.Spec, error) { return nil, errdefs.ErrNotImplemented }

// ExecConfig is a further process in a running container.
type ExecConfig struct {
	Args         []string
	Env          []string // over the container's; a bare NAME removes
	WorkingDir   string   // "": the container's
	User         string   // "": the container's
	TTY          bool
	Privileged   bool // every capability of the host
	Width        uint16
	Height       uint16
	Capabilities []string // added, as CapAdd
}

// Exec makes the process of an exec in a container that was built from c.
func Exec(c Config, e ExecConfig, h Host) (*specs.Process, error) {
	return nil, errdefs.ErrNotImplemented
}

// ResourceSpec turns limits into the specification's form, for an update of a
// running container. Nodes are the block devices that r names.
func ResourceSpec(r Resources, nodes []Node) (*specs.LinuxResources, error) {
	return nil, errdefs.ErrNotImplemented
}

// WithImage fills what c leaves unsaid from the image's configuration, by
// Docker's rules.
func (c Config) WithImage(img dockerspec.DockerOCIImage) Config { return c }

// Validate says what of c cannot be honoured on h, in one line that names the
// field, the reason and the next step. The error is ErrInvalidArgument.
func (c Config) Validate(h Host) error { return nil }

// ParseSignal reads a signal as a person writes it: "TERM", "SIGTERM", "15",
// "RTMIN+3".
func ParseSignal(s string) (syscall.Signal, error) { return 0, errdefs.ErrNotImplemented }
