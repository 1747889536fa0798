// Package spec turns what a user asks of a container into an OCI runtime
// specification. It is pure: it reads no file, no clock and no kernel; what it
// must know of the machine arrives as a value ([Host]).
package spec

import (
	"net/netip"
	"time"
)

// Config is what a user asks of one container, in the terms of Docker's API
// and of a Compose service alike. It is stored in the container's record as
// JSON, so fields are only ever added.
//
// A zero field means "not said": [Config.WithImage] fills it from the image,
// and [Build] from the defaults of the platform.
type Config struct {
	Image   string `json:",omitempty"` // as the user wrote it
	ImageID string `json:",omitempty"` // digest of the image's configuration, "sha256:…"

	Entrypoint []string          `json:",omitzero"`  // nil: the image's; [""] or empty non-nil: none
	Command    []string          `json:",omitempty"` // empty: the image's, unless Entrypoint is said
	Env        []string          `json:",omitempty"` // NAME=value; a bare NAME removes the image's
	WorkingDir string            `json:",omitempty"`
	User       string            `json:",omitempty"` // name|uid[:group|gid]
	GroupAdd   []string          `json:",omitempty"` // names or ids
	Hostname   string            `json:",omitempty"` // "": the first 12 digits of the container's id
	Domainname string            `json:",omitempty"`
	Labels     map[string]string `json:",omitempty"`

	Annotations map[string]string `json:",omitempty"`

	TTY       bool `json:",omitempty"`
	OpenStdin bool `json:",omitempty"`
	StdinOnce bool `json:",omitempty"` // close stdin when the first client that attached it leaves
	Init      bool `json:",omitempty"` // run gantry's init as process 1

	ReadOnly bool    `json:",omitempty"`
	Mounts   []Mount `json:",omitempty"`
	ShmSize  int64   `json:",omitempty"` // bytes; 0: 64 MiB
	// VolumesFrom are containers whose volumes and binds this one has too,
	// "NAME", "NAME:ro" or "NAME:rw".
	VolumesFrom []string `json:",omitempty"`

	CapAdd          []string `json:",omitempty"` // "NET_ADMIN" or "CAP_NET_ADMIN"; "ALL"
	CapDrop         []string `json:",omitempty"`
	Privileged      bool     `json:",omitempty"`
	NoNewPrivileges bool     `json:",omitempty"`
	Seccomp         string   `json:",omitempty"` // "": Docker's default; "unconfined"; else a profile as JSON text
	AppArmor        string   `json:",omitempty"` // "": docker-default where the kernel has it; "unconfined"; a profile's name
	MaskedPaths     []string `json:",omitzero"`  // nil: the default list; empty non-nil: none
	ReadonlyPaths   []string `json:",omitzero"`  // the same
	// WritableCgroups mounts the container's own cgroups for writing; nil: only
	// when it is privileged.
	WritableCgroups *bool `json:",omitempty"`

	Sysctls map[string]string `json:",omitempty"`
	Ulimits []Ulimit          `json:",omitempty"`

	PidMode    string `json:",omitempty"` // "", "host", "container:ID"
	IpcMode    string `json:",omitempty"` // "", "private", "shareable", "none", "host", "container:ID"
	UTSMode    string `json:",omitempty"` // "", "host"
	CgroupMode string `json:",omitempty"` // "" and "private": own namespace; "host"
	UsernsMode string `json:",omitempty"` // "", "host"

	CgroupParent      string    `json:",omitempty"`
	Resources         Resources `json:",omitzero"`
	Devices           []Device  `json:",omitempty"`
	DeviceCgroupRules []string  `json:",omitempty"` // "c 1:3 rwm", as the kernel's devices controller
	OomScoreAdj       int       `json:",omitempty"`

	StopSignal  string         `json:",omitempty"` // "": the image's, else SIGTERM
	StopTimeout *time.Duration `json:",omitempty"` // nil: 10 s; negative: wait for ever

	Restart     RestartPolicy `json:",omitzero"`
	Healthcheck *Healthcheck  `json:",omitempty"` // nil: the image's
	// ReadyAfter is how long a container without a healthcheck must have run to
	// count as ready.
	ReadyAfter time.Duration `json:",omitempty"`
	Log        LogConfig     `json:",omitzero"`
	Network    Network       `json:",omitzero"`

	AutoRemove bool `json:",omitempty"` // remove the container once it has exited
}

// Mount kinds.
const (
	MountBind   = "bind"
	MountVolume = "volume"
	MountTmpfs  = "tmpfs"
	MountImage  = "image" // the root of an image, read-only
	MountFile   = "file"  // content held in the record's own directory: a secret or a config
)

// Mount is one thing mounted into a container.
type Mount struct {
	Type     string
	Source   string `json:",omitempty"` // bind: absolute path; volume: its name, "" for a fresh anonymous one; image: its name or id; file: a name within the container's own directory
	Target   string // absolute path inside the container
	ReadOnly bool   `json:",omitempty"`

	// Propagation of a bind mount: "", "rprivate", "private", "rshared",
	// "shared", "rslave", "slave".
	Propagation    string `json:",omitempty"`
	CreateHostPath bool   `json:",omitempty"` // bind: make a missing source directory
	NonRecursive   bool   `json:",omitempty"`
	// ShallowReadOnly leaves the mounts below a read-only one as they are;
	// DeepReadOnly refuses a kernel that could not do otherwise.
	ShallowReadOnly bool `json:",omitempty"`
	DeepReadOnly    bool `json:",omitempty"`

	// BindOptions are further flags of a bind, as mount(8) writes them: "noexec".
	BindOptions []string `json:",omitempty"`

	// Anonymous, of a volume with a Source: it was made for an earlier container
	// in this one's place, and goes with this one.
	Anonymous bool `json:",omitempty"`

	NoCopy  bool              `json:",omitempty"` // volume: do not copy the image's content up
	Subpath string            `json:",omitempty"` // volume, image: mount this directory or file of it
	Labels  map[string]string `json:",omitempty"` // of a volume that is made for this mount
	Driver  string            `json:",omitempty"`
	// DriverOptions of a volume that is made for this mount.
	DriverOptions map[string]string `json:",omitempty"`

	TmpfsSize    int64    `json:",omitempty"` // bytes, 0: the kernel's default
	TmpfsMode    uint32   `json:",omitempty"` // 0: that of the directory it covers, else 01777
	TmpfsOptions []string `json:",omitempty"` // further options, as mount(8) writes them: "size=64m", "exec"

	// Content of a file mount, and how it is shown inside.
	Content []byte `json:",omitempty"`
	UID     int    `json:",omitempty"`
	GID     int    `json:",omitempty"`
	Mode    uint32 `json:",omitempty"`
}

// Ulimit is one resource limit; -1 stands for unlimited.
type Ulimit struct {
	Name       string // "nofile", as in setrlimit(2) without RLIMIT_
	Soft, Hard int64
}

// Resources are limits in the units of the kernel. Zero means none.
type Resources struct {
	NanoCPUs     int64    `json:",omitempty"` // 10⁻⁹ CPUs; excludes CPUQuota
	CPUShares    uint64   `json:",omitempty"` // 2 to 262144
	CPUQuota     int64    `json:",omitempty"` // µs per period
	CPUPeriod    uint64   `json:",omitempty"` // µs
	CPURtPeriod  uint64   `json:",omitempty"`
	CPURtRuntime int64    `json:",omitempty"`
	CpusetCpus   string   `json:",omitempty"`
	CpusetMems   string   `json:",omitempty"`
	Memory       int64    `json:",omitempty"` // bytes
	MemorySwap   int64    `json:",omitempty"` // bytes of memory and swap together; -1 unlimited
	MemoryLow    int64    `json:",omitempty"` // bytes, the reservation
	Swappiness   *int64   `json:",omitempty"` // 0 to 100
	OomKillOff   bool     `json:",omitempty"`
	PidsLimit    int64    `json:",omitempty"` // -1 unlimited
	BlkioWeight  uint16   `json:",omitempty"` // 10 to 1000
	BlkioWeights []Weight `json:",omitempty"`
	ReadBps      []Rate   `json:",omitempty"`
	WriteBps     []Rate   `json:",omitempty"`
	ReadIOPS     []Rate   `json:",omitempty"`
	WriteIOPS    []Rate   `json:",omitempty"`
}

// Weight is a block device's share, 10 to 1000.
type Weight struct {
	Path   string
	Weight uint16
}

// Rate limits a block device, per second.
type Rate struct {
	Path string
	Rate uint64
}

// Device is a host device shown inside a container.
type Device struct {
	Source, Target string
	Permissions    string // of "rwm"; "": all three
}

// Restart policies.
const (
	RestartNo            = "no" // also ""
	RestartAlways        = "always"
	RestartOnFailure     = "on-failure"
	RestartUnlessStopped = "unless-stopped"
)

// RestartPolicy says when an exited container is started again.
type RestartPolicy struct {
	Name       string `json:",omitempty"`
	MaxRetries int    `json:",omitempty"` // of on-failure; 0: no bound
	// The rest is what Compose's deploy.restart_policy says besides, and what
	// Docker's API has no word for.
	Delay    time.Duration `json:",omitempty"` // before every restart; 0: at once, then ever longer
	Attempts int           `json:",omitempty"` // restarts at most; 0: no bound
	Window   time.Duration `json:",omitempty"` // in which Attempts are counted; 0: since a call started it
	// Unhealthy says that a container which turns unhealthy has failed, and is
	// ended to be restarted.
	Unhealthy bool `json:",omitempty"`
}

// Healthcheck is a probe: run inside the container (CMD, CMD-SHELL), or made
// from outside in its network namespace (TCP, HTTP; see [Healthcheck.Target]).
type Healthcheck struct {
	Test          []string      `json:",omitempty"` // ["NONE"], ["CMD", …], ["CMD-SHELL", text], ["TCP", port], ["HTTP", "port/path"]; empty: the image's
	Interval      time.Duration `json:",omitempty"` // 0: 30 s
	Timeout       time.Duration `json:",omitempty"` // 0: 30 s
	StartPeriod   time.Duration `json:",omitempty"`
	StartInterval time.Duration `json:",omitempty"` // 0: 5 s
	Retries       int           `json:",omitempty"` // 0: 3
}

// LogConfig says where output goes.
type LogConfig struct {
	Driver   string `json:",omitempty"` // "", "json-file", "local", "none"
	MaxSize  int64  `json:",omitempty"` // bytes of one file; 0: 10 MB; -1: unbounded
	MaxFiles int    `json:",omitempty"` // 0: 3
	// Options as the user gave them, to be shown back.
	Options map[string]string `json:",omitempty"`
}

// Network is a container's wiring as the user asked for it.
type Network struct {
	Mode      string     `json:",omitempty"` // "" and "bridge": Endpoints; "none", "host", "container:ID"
	Endpoints []Endpoint `json:",omitempty"` // none with Mode "": the default bridge
	Ports     []Port     `json:",omitempty"` // published
	Exposed   []string   `json:",omitempty"` // "80/tcp"
	// PublishAll publishes every exposed port on an ephemeral host port.
	PublishAll bool `json:",omitempty"`
	// Group names the service that owns Ports together with its other
	// replicas; "" when the container owns them alone.
	Group string `json:",omitempty"`
	// Sticky leads the connections that one client makes to Ports to one and the
	// same of the group's containers.
	Sticky bool `json:",omitempty"`
	// Virtual gives the group an address of its own on every network, which is
	// what the Aliases of Endpoints mean.
	Virtual bool `json:",omitempty"`

	DNS        []string `json:",omitempty"`
	DNSSearch  []string `json:",omitempty"`
	DNSOptions []string `json:",omitempty"`
	ExtraHosts []string `json:",omitempty"` // "name:address" or "name:host-gateway"
	Links      []string `json:",omitempty"` // "name:alias": a further name for another one, that only this container has
	MacAddress string   `json:",omitempty"`
}

// Endpoint is a place on a network.
type Endpoint struct {
	Network    string     // name or id
	Aliases    []string   `json:",omitempty"` // further DNS names on this network
	IPv4, IPv6 netip.Addr `json:",omitzero"`  // zero: the next free one
	MacAddress string     `json:",omitempty"`
	Interface  string     `json:",omitempty"` // "": ethN
	Priority   int        `json:",omitempty"` // higher is connected first
	GwPriority int        `json:",omitempty"` // highest gives the default route
}

// Port publishes a container's port on the host. Ranges are expanded by
// whoever makes the Config: one Port is one container port.
type Port struct {
	HostIP   string `json:",omitempty"` // "": every address
	HostPort uint16 `json:",omitempty"` // 0: ephemeral
	HostEnd  uint16 `json:",omitempty"` // last of a range to choose a free one from; 0: HostPort alone
	Port     uint16 // inside
	Protocol string `json:",omitempty"` // "tcp" (also ""), "udp", "sctp"
}
