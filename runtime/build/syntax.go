package build

import (
	"context"
	"maps"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	dockerfile "github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"
)

// Options of the Dockerfile frontend that are read or changed here.
const (
	optResolve = "image-resolve-mode"
	optCmdline = "cmdline" // names the frontend that reads the file; set, no other is looked for
	optSource  = "source"
	optHosts   = "add-hosts"
)

// dockerfile is BuildKit's Dockerfile frontend, with Docker's ways about
// images, its syntax directive answered here where it can be, and what steps
// cannot have refused before they run.
func (b *Builder) dockerfile(ctx context.Context, c client.Client) (*client.Result, error) {
	o := c.BuildOpts()
	if err := checkSteps(o.Opts, b.Host); err != nil {
		return nil, err
	}
	return dockerfile.Build(ctx, &native{Client: c, opts: b.defaults(o.Opts), granted: func(e entitlements.Entitlement) bool {
		return b.grants.has(o.SessionID, e)
	}})
}

// defaults are a build's options with what Docker does where they say nothing.
func (b *Builder) defaults(opts map[string]string) map[string]string {
	opts = maps.Clone(opts)
	if opts == nil {
		opts = map[string]string{}
	}
	if m := opts[optResolve]; m == "" || m == pb.AttrImageResolveModeDefault {
		// An image that is here is taken; only "pull" asks the registry.
		opts[optResolve] = pb.AttrImageResolveModePreferLocal
	}
	if hosts := opts[optHosts]; strings.Contains(hosts, "host-gateway") {
		if gw := b.Fabric.HostGateway(); gw.IsValid() {
			opts[optHosts] = strings.ReplaceAll(hosts, "host-gateway", gw.String())
		}
	}
	return opts
}

// native answers a syntax directive that names Docker's own Dockerfile syntax
// with the frontend that is built in, instead of pulling an image of it, and
// looks at what the frontend has made of the file.
type native struct {
	client.Client
	opts    map[string]string
	granted func(entitlements.Entitlement) bool
}

func (n *native) BuildOpts() client.BuildOpts {
	o := n.Client.BuildOpts()
	o.Opts = n.opts
	return o
}

func (n *native) Solve(ctx context.Context, req client.SolveRequest) (*client.Result, error) {
	if req.Frontend == "gateway.v0" && builtIn(req.FrontendOpt[optSource]) {
		opts := maps.Clone(req.FrontendOpt)
		delete(opts, optSource)
		return dockerfile.Build(ctx, &native{Client: n.Client, opts: opts, granted: n.granted})
	}
	if err := n.checkRights(req.Definition); err != nil {
		return nil, err
	}
	return n.Client.Solve(ctx, req)
}

// ResolveImageConfig and its like see the options as well.
var _ sourceresolver.MetaResolver = (*native)(nil)

// builtIn says whether a syntax directive names what the built-in frontend
// reads: "docker/dockerfile" with a tag of version 1. One with a digest names
// exact bytes, and a labs or upstream build has more than the built-in one.
func builtIn(source string) bool {
	ref, err := reference.ParseNormalizedNamed(source)
	if err != nil || ref.Name() != "docker.io/docker/dockerfile" {
		return false
	}
	if _, exact := ref.(reference.Digested); exact {
		return false
	}
	tagged, ok := reference.TagNameOnly(ref).(reference.Tagged)
	if !ok {
		return false
	}
	tag := tagged.Tag()
	if strings.ContainsRune(tag, '-') {
		return false
	}
	return tag == "latest" || tag == "1" || strings.HasPrefix(tag, "1.")
}
