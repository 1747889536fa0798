package build

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gantry/compose"

	"github.com/containerd/errdefs"
)

// Request is one build. Paths in it are absolute, except those within a context
// that is not a local directory. It travels to the builder's program in a pipe,
// and nothing of it is ever an argument.
type Request struct {
	// Name tells the build from others of the same job, and is what a
	// ServicePrefix means. It may be empty if there is no other.
	Name string
	// Context is a directory, a URL (git or http), or Stdin: an archive, or a
	// Dockerfile that needs no files.
	Context string
	// Dockerfile is a file, anywhere; a path within a context that is no local
	// directory; or Stdin. Empty: "Dockerfile" in the context.
	Dockerfile string
	// Inline is the Dockerfile itself.
	Inline string
	// Contexts are further sources by the name that FROM and COPY --from know
	// them by: a directory, a URL, docker-image://, oci-layout://PATH, or
	// ServicePrefix and the name of another request.
	Contexts map[string]string

	Target        string
	Tags          []string
	Args          map[string]string
	Labels        map[string]string
	NoCache       bool
	NoCacheFilter []string // stages
	Pull          bool
	Platforms     []string
	Network       string   // "", "default", "none", "host"
	ShmSize       int64    // bytes; 0: the default
	ExtraHosts    []string // NAME=ADDRESS
	Ulimits       []string // NAME=SOFT[:HARD]
	Cgroup        string
	Limits        map[string]string // in the frontend's words: memory, cpushares, …

	Secrets   []Secret
	SSH       []Key
	CacheFrom []Cache
	CacheTo   []Cache
	Outputs   []Output
	// Allow are entitlements: network.host, security.insecure.
	Allow []string
	// Attests are attestations: "provenance" or "sbom" → their parameters.
	Attests map[string]string
	// Call asks something about the Dockerfile instead of building: check,
	// outline or targets.
	Call string
}

const (
	// Stdin, as a context or a Dockerfile, is standard input.
	Stdin = "-"
	// ServicePrefix in a named context means the image of another request.
	ServicePrefix = compose.ServicePrefix
)

// Secret is what `RUN --mount=type=secret,id=ID` sees: the content of a file, of
// a variable, or Content.
type Secret struct {
	ID      string
	File    string `json:",omitempty"`
	Env     string `json:",omitempty"`
	Content []byte `json:",omitempty"`
}

// Key is what `RUN --mount=type=ssh,id=ID` reaches: an agent's socket or private
// keys. Without a path it is the agent of SSH_AUTH_SOCK.
type Key struct {
	ID    string
	Paths []string `json:",omitempty"`
}

// Cache is where build cache comes from or goes to.
type Cache struct {
	Type  string // registry, local, inline
	Attrs map[string]string
}

// Output is where the result goes.
type Output struct {
	Type string // image, local, tar, oci, docker
	// Dest is a directory or a file, Stdin for standard output.
	Dest  string
	Attrs map[string]string
}

// Kinds of output.
const (
	OutputImage  = "image" // the daemon's own store
	OutputLocal  = "local"
	OutputTar    = "tar"
	OutputOCI    = "oci"
	OutputDocker = "docker"
)

// Result is what came of a request.
type Result struct {
	Name string
	// Image is the id of the image; empty if no output made one.
	Image string
	// Response is what the exporters said.
	Response map[string]string
	// Text is what a call answered, and Failed that it found faults.
	Text   string
	Failed bool
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

func unsupported(format string, args ...any) error {
	return errdefs.ErrNotImplemented.WithMessage(fmt.Sprintf(format, args...))
}

// Check refuses a request that cannot be done, or that means nothing.
func (r Request) Check() error {
	switch r.Network {
	case "", "default", "none", "host":
	default:
		return unsupported("network %q: the steps of a build are on the default network, on the host's, or on none", r.Network)
	}
	for _, e := range r.Allow {
		switch e {
		case AllowHost, AllowInsecure:
		default:
			return unsupported("entitlement %q is not supported (only %s, %s)", e, AllowHost, AllowInsecure)
		}
	}
	for _, c := range slices.Concat(r.CacheFrom, r.CacheTo) {
		if err := c.check(); err != nil {
			return err
		}
	}
	for _, o := range r.Outputs {
		if err := o.check(len(r.Platforms)); err != nil {
			return err
		}
	}
	for _, h := range r.ExtraHosts {
		if name, addr, ok := strings.Cut(h, "="); !ok || name == "" || addr == "" || strings.Contains(h, ",") {
			return invalid("extra host %q is not NAME=ADDRESS", h)
		}
	}
	for name := range r.Contexts {
		if name == "" || strings.ContainsAny(name, ",=") {
			return invalid("build context %q: that is no name", name)
		}
	}
	for kind := range r.Attests {
		if kind != "provenance" && kind != "sbom" {
			return unsupported("attestation %q is not supported (only provenance, sbom)", kind)
		}
	}
	switch r.Call {
	case "", "check", "outline", "targets":
	default:
		return unsupported("--call %s is not supported (only build, check, outline, targets)", r.Call)
	}
	if r.Inline != "" && r.Dockerfile != "" {
		return invalid("a Dockerfile is given twice: as a file and inline")
	}
	if r.Context == Stdin && r.Dockerfile == Stdin {
		return invalid("standard input cannot be both the context and the Dockerfile")
	}
	return nil
}

// Entitlements of a build.
const (
	AllowHost     = "network.host"
	AllowInsecure = "security.insecure"
)

// Entitlements are those that the request asks for and those it implies.
func (r Request) Entitlements() []string {
	all := slices.Clone(r.Allow)
	if r.Network == "host" {
		all = append(all, AllowHost)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Options are the request in the words of BuildKit's Dockerfile frontend, but
// for what depends on files. It is pure.
func (r Request) Options() map[string]string {
	o := map[string]string{}
	set := func(key, value string) {
		if value != "" {
			o[key] = value
		}
	}
	for k, v := range r.Args {
		o["build-arg:"+k] = v
	}
	for k, v := range r.Labels {
		o["label:"+k] = v
	}
	for k, v := range r.Attests {
		o["attest:"+k] = v
	}
	maps.Copy(o, r.Limits)
	set("target", r.Target)
	set("platform", strings.Join(r.Platforms, ","))
	set("cgroup-parent", r.Cgroup)
	set("ulimit", strings.Join(r.Ulimits, ","))
	set("add-hosts", strings.Join(r.ExtraHosts, ","))
	if r.ShmSize > 0 {
		o["shm-size"] = strconv.FormatInt(r.ShmSize, 10)
	}
	if r.Network != "default" {
		set("force-network-mode", r.Network)
	}
	if r.Pull {
		o["image-resolve-mode"] = "pull"
	}
	switch {
	case r.NoCache:
		o["no-cache"] = "" // all stages
	case len(r.NoCacheFilter) > 0:
		o["no-cache"] = strings.Join(r.NoCacheFilter, ",")
	}
	switch r.Call {
	case "check":
		o["requestid"] = "frontend.lint"
	case "outline", "targets":
		o["requestid"] = "frontend." + r.Call
	}
	return o
}

// Services are the requests whose images this one needs.
func (r Request) Services() []string {
	var all []string
	for _, source := range r.Contexts {
		if name, ok := strings.CutPrefix(source, ServicePrefix); ok {
			all = append(all, name)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// key is the same for requests that build the same: all but their names.
func (r Request) key() string {
	r.Name, r.Tags = "", nil
	text, err := json.Marshal(r)
	if err != nil {
		// Not for values of these types.
		return fmt.Sprintf("%p", &r)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Stores says whether the image ends in the daemon's store.
func (r Request) Stores() bool {
	return slices.ContainsFunc(r.Outputs, func(o Output) bool { return o.Type == OutputImage && o.Attrs["store"] != "false" })
}
