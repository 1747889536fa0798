package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gantry/runtime/image"
	"gantry/runtime/rootfs"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	controlapi "github.com/moby/buildkit/api/services/control"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/identity"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/filesync"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
)

// Request is one build as Docker's POST /build asks for it.
type Request struct {
	// ID names the build to [Builder.Cancel]; empty: nobody will.
	ID string
	// Session is the caller's, which has the files. Without one they come in
	// Context, a tar archive, or from the URL Remote.
	Session string
	Context io.Reader
	// ContextSize is that of Context in bytes, if it is known.
	ContextSize int64
	Remote      string
	Dockerfile  string
	Target      string

	Names       []string
	Args        map[string]*string // nil: not set, as if it were not there
	Labels      map[string]string
	NoCache     bool
	Pull        bool
	Platform    string
	NetworkMode string
	ExtraHosts  []string // "name:address"
	ShmSize     int64
	Ulimits     []string // "nofile=1024:2048"
	Cgroup      string
	Limits      map[string]string // in the frontend's words: "memory", "cpu-shares"
	CacheFrom   []string
	// Outputs, of which Docker knows at most one; none: the image store.
	Outputs []Output
	// Credentials of registries, by server, for a build without a session.
	Credentials map[string]Credential
}

// Output says where what was built goes.
type Output struct {
	Type  string
	Attrs map[string]string
}

// Credential is what a registry knows a user by.
type Credential struct{ Username, Password, IdentityToken string }

// Trace tells of a build's progress as BuildKit's clients read it: one encoded
// StatusResponse of its control API.
type Trace func([]byte) error

// Report tells of it to others.
type Report func(*bkclient.SolveStatus)

// Build builds and gives the id of the image, "" if the outputs made none.
// Exactly one of trace and report is called, from one goroutine.
func (b *Builder) Build(ctx context.Context, r Request, trace Trace, report Report) (digest.Digest, error) {
	attrs, err := r.frontendAttrs()
	if err != nil {
		return "", err
	}
	if err := checkSteps(attrs, b.Host); err != nil {
		return "", err
	}
	exporters, err := r.exporters()
	if err != nil {
		return "", err
	}
	ctx, done := b.track(ctx, r.ID)
	defer done()
	o, err := b.buildkit()
	if err != nil {
		return "", err
	}
	cl, err := o.client(ctx)
	if err != nil {
		return "", err
	}
	defer cl.Close()
	sessionID := r.Session
	if sessionID == "" {
		own, err := b.ownSession(ctx, o, r, attrs)
		if err != nil {
			return "", err
		}
		defer own.close()
		sessionID = own.ID()
	}
	req := &controlapi.SolveRequest{
		Ref: identity.NewID(), Session: sessionID,
		Frontend: "dockerfile.v0", FrontendAttrs: attrs, Exporters: exporters,
		Cache: &controlapi.CacheOptions{}, Internal: true, // not kept to be looked at: nobody could
	}
	for _, from := range r.CacheFrom {
		imp, err := cacheImport(from)
		if err != nil {
			return "", err
		}
		req.Cache.Imports = append(req.Cache.Imports, imp)
	}
	if r.NetworkMode == "host" {
		req.Entitlements = []string{string(entitlements.EntitlementNetworkHost)}
	}
	return b.solve(ctx, cl, req, trace, report)
}

func (b *Builder) solve(ctx context.Context, cl *bkclient.Client, req *controlapi.SolveRequest, trace Trace, report Report) (id digest.Digest, err error) {
	g, ctx := errgroup.WithContext(ctx)
	done := make(chan struct{})
	g.Go(func() error {
		defer close(done)
		res, err := cl.ControlClient().Solve(ctx, req)
		if err != nil {
			return err
		}
		id = digest.Digest(res.ExporterResponse[exptypes.ExporterImageConfigDigestKey])
		if id == "" {
			id = digest.Digest(res.ExporterResponse[exptypes.ExporterImageDigestKey])
		}
		return nil
	})
	g.Go(func() error {
		stream, err := cl.ControlClient().Status(ctx, &controlapi.StatusRequest{Ref: req.Ref})
		if err != nil {
			return err
		}
		for {
			st, err := stream.Recv()
			if err != nil {
				if errors.Is(err, io.EOF) {
					return nil
				}
				select {
				case <-done: // says more
					return nil
				default:
					return err
				}
			}
			if trace == nil {
				report(bkclient.NewSolveStatus(st))
				continue
			}
			text, err := st.MarshalVT()
			if err != nil {
				return err
			}
			if err := trace(text); err != nil {
				return err
			}
		}
	})
	return id, classed(g.Wait())
}

// frontendAttrs are the build's options in the Dockerfile frontend's words. It
// is pure.
func (r Request) frontendAttrs() (map[string]string, error) {
	attrs := map[string]string{}
	set := func(key, value string) {
		if value != "" {
			attrs[key] = value
		}
	}
	set("filename", r.Dockerfile)
	set("target", r.Target)
	set("platform", r.Platform)
	set("cgroup-parent", r.Cgroup)
	set("ulimit", strings.Join(r.Ulimits, ","))
	if r.Remote != "" && r.Session == "" {
		set("context", r.Remote)
	}
	for k, v := range r.Args {
		if v != nil {
			attrs["build-arg:"+k] = *v
		}
	}
	for k, v := range r.Labels {
		attrs["label:"+k] = v
	}
	maps.Copy(attrs, r.Limits)
	if r.NoCache {
		attrs["no-cache"] = ""
	}
	if r.Pull {
		attrs[optResolve] = pb.AttrImageResolveModeForcePull
	}
	if r.ShmSize > 0 {
		attrs["shm-size"] = strconv.FormatInt(r.ShmSize, 10)
	}
	switch r.NetworkMode {
	case "", "default", "bridge":
	case "host", "none":
		attrs["force-network-mode"] = r.NetworkMode
	default:
		return nil, fmt.Errorf("network mode %q: a build's steps are on the default network, on the host's, or on none: %w", r.NetworkMode, errdefs.ErrInvalidArgument)
	}
	var hosts []string
	for _, h := range r.ExtraHosts {
		name, addr, ok := strings.Cut(h, ":")
		if n, a, eq := strings.Cut(h, "="); eq {
			name, addr, ok = n, a, true
		}
		if !ok || name == "" || addr == "" {
			return nil, fmt.Errorf("extra host %q is not NAME:ADDRESS: %w", h, errdefs.ErrInvalidArgument)
		}
		hosts = append(hosts, name+"="+strings.Trim(addr, "[]"))
	}
	set(optHosts, strings.Join(hosts, ","))
	return attrs, nil
}

func (r Request) exporters() ([]*controlapi.Exporter, error) {
	if len(r.Outputs) > 1 {
		return nil, fmt.Errorf("%d outputs: give one: %w", len(r.Outputs), errdefs.ErrInvalidArgument)
	}
	out := Output{Type: bkclient.ExporterImage}
	if len(r.Outputs) == 1 {
		out = r.Outputs[0]
	}
	switch out.Type {
	case bkclient.ExporterImage, "moby", bkclient.ExporterLocal, bkclient.ExporterTar, bkclient.ExporterOCI, bkclient.ExporterDocker:
	default:
		return nil, fmt.Errorf("output of type %q: must be image, local, tar, oci or docker: %w", out.Type, errdefs.ErrInvalidArgument)
	}
	attrs := maps.Clone(out.Attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	if (out.Type == bkclient.ExporterImage || out.Type == "moby") && attrs["name"] == "" {
		names, err := fullNames(strings.Join(r.Names, ","))
		if err != nil {
			return nil, err
		}
		attrs["name"] = names
	}
	return []*controlapi.Exporter{{Type: out.Type, Attrs: attrs}}, nil
}

// cacheImport reads a --cache-from: an image's name, or BuildKit's long form.
func cacheImport(from string) (*controlapi.CacheOptionsEntry, error) {
	if strings.HasPrefix(from, "{") {
		var e struct {
			Type  string            `json:"Type"`
			Attrs map[string]string `json:"Attrs"`
		}
		if err := json.Unmarshal([]byte(from), &e); err != nil {
			return nil, fmt.Errorf("cache %q: %w: %w", from, err, errdefs.ErrInvalidArgument)
		}
		return &controlapi.CacheOptionsEntry{Type: e.Type, Attrs: e.Attrs}, nil
	}
	if _, err := reference.ParseNormalizedNamed(from); err != nil {
		return nil, fmt.Errorf("cache %q is no image name: %w: %w", from, err, errdefs.ErrInvalidArgument)
	}
	return &controlapi.CacheOptionsEntry{Type: "registry", Attrs: map[string]string{"ref": from}}, nil
}

// ownSession serves a build whose caller has none: the files it has sent, and
// its credentials.
type ownSession struct {
	*session.Session
	dir  string
	over chan struct{}
}

func (s *ownSession) close() {
	_ = s.Session.Close()
	<-s.over
	if s.dir != "" {
		_ = os.RemoveAll(s.dir)
	}
}

func (b *Builder) ownSession(ctx context.Context, o *opened, r Request, attrs map[string]string) (_ *ownSession, err error) {
	own := &ownSession{over: make(chan struct{})}
	defer func() {
		if err != nil && own.dir != "" {
			_ = os.RemoveAll(own.dir)
		}
	}()
	key := ""
	if r.Context != nil {
		if own.dir, err = b.newContext(r.ContextSize); err != nil {
			return nil, err
		}
		if key, err = unpackContext(own.dir, r, attrs); err != nil {
			return nil, image.Full(b.Root, err)
		}
	}
	if own.Session, err = session.NewSession(ctx, key); err != nil {
		return nil, err
	}
	own.Allow(&credentials{byServer: r.Credentials})
	if own.dir != "" {
		fs, err := fsutil.NewFS(own.dir)
		if err != nil {
			return nil, err
		}
		own.Allow(filesync.NewFSSyncProvider(filesync.StaticDirSource{"context": fs, "dockerfile": fs}))
	}
	go func() {
		defer close(own.over)
		_ = own.Run(ctx, o.dialSession)
	}()
	return own, nil
}

// newContext makes a directory for the files of a context. It lies on the disk,
// not in the memory that RUN may be, and BuildKit will have a copy of what is
// used of it.
func (b *Builder) newContext(size int64) (string, error) {
	dir := filepath.Join(b.Root, contextsDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", err
	}
	if err := image.Room(dir, "the build context", size); err != nil {
		return "", err
	}
	return os.MkdirTemp(dir, "")
}

// contextsDir is below ROOT/build: what classic builds have sent.
const contextsDir = "contexts"

// unpackContext writes the files of a context and gives the digest of their
// archive. A later build may go on with what BuildKit has of these files only
// when that is the same: BuildKit takes a file for unchanged that has its size
// and its time, and archives are made in which all times are one.
func unpackContext(dir string, r Request, attrs map[string]string) (key string, err error) {
	root, err := os.Open(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	archive, err := image.Decompress(r.Context)
	if err != nil {
		return "", fmt.Errorf("build context: %w", err)
	}
	defer archive.Close()
	sum := digest.Canonical.Digester()
	if err := rootfs.Unpack(root, ".", io.TeeReader(archive, sum.Hash()), rootfs.UnpackOptions{}); err != nil {
		return "", fmt.Errorf("build context: %w", err)
	}
	// Here, before anything is begun, it has a status of its own.
	candidates := []string{r.Dockerfile}
	if r.Dockerfile == "" {
		candidates = []string{"Dockerfile", "dockerfile"} // as for BuildKit's own clients
	}
	for _, name := range candidates {
		f, err := rootfs.OpenIn(root, name, unix.O_PATH)
		if err != nil {
			continue
		}
		f.Close()
		if name != r.Dockerfile {
			attrs["filename"] = name
		}
		return sum.Digest().String(), nil
	}
	return "", fmt.Errorf("Cannot locate specified Dockerfile: %s: %w", candidates[0], errdefs.ErrInvalidArgument) //nolint:staticcheck // Docker's text
}

// credentials answers for registries with what came with the request.
type credentials struct {
	auth.UnimplementedAuthServer
	byServer map[string]Credential
}

func (c *credentials) Register(s *grpc.Server) { auth.RegisterAuthServer(s, c) }

// dockerHub is what Docker's configuration calls its own registry.
const dockerHub = "https://index.docker.io/v1/"

func (c *credentials) Credentials(_ context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	names := []string{req.Host, "https://" + req.Host, "http://" + req.Host}
	if req.Host == "registry-1.docker.io" || req.Host == "docker.io" {
		names = append(names, dockerHub, "docker.io", "index.docker.io")
	}
	i := slices.IndexFunc(names, func(n string) bool { _, ok := c.byServer[n]; return ok })
	if i < 0 {
		return &auth.CredentialsResponse{}, nil
	}
	cred := c.byServer[names[i]]
	if cred.IdentityToken != "" {
		return &auth.CredentialsResponse{Secret: cred.IdentityToken}, nil
	}
	return &auth.CredentialsResponse{Username: cred.Username, Secret: cred.Password}, nil
}
