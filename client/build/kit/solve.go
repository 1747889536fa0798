package kit

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"gantry/client/build"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/distribution/reference"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil"
)

const frontend = "dockerfile.v0"

// solve is a build that can begin.
type solve struct {
	build.Build
	opt     bkclient.SolveOpt
	needed  map[string]string // named contexts that are images of other builds
	targets *targets
}

// prepare finds what a build needs of its caller, and asks the daemon nothing.
func (k *kit) prepare(ctx context.Context, b build.Build) (*solve, error) {
	w := &solve{Build: b, targets: &targets{stdout: k.streams.Out}, opt: bkclient.SolveOpt{
		Frontend: frontend, FrontendAttrs: b.Options(),
		AllowedEntitlements: b.Entitlements(),
		Internal:            true, // a record of it would cost, and have no reader
		LocalMounts:         map[string]fsutil.FS{}, OCIStores: map[string]content.Store{},
	}}
	var err error
	if w.needed, err = k.sources(ctx, b.Request, &w.opt, k.image); err != nil {
		return nil, err
	}
	if err := k.attach(b.Request, &w.opt); err != nil {
		return nil, err
	}
	if b.Call == "" {
		err = w.targets.prepare(b.Request, &w.opt)
	}
	return w, err
}

// image is what the image of another request is called.
func (k *kit) image(service string) string {
	for _, b := range k.builds {
		if slices.Contains(b.Names, service) && len(b.Tags) > 0 && b.Stores() {
			return b.Tags[0]
		}
	}
	return ""
}

// one does one build.
func (k *kit) one(ctx context.Context, w *solve) (build.Result, error) {
	b, opt := w.Build, w.opt
	prefix := ""
	if len(k.builds) > 1 {
		prefix = b.Name
	}
	var answer *bkclient.SolveResponse
	var called *gateway.Result
	var err error
	if b.Call != "" || len(w.needed) > 0 {
		opt.Frontend = ""
		answer, err = k.client.Build(ctx, opt, "gantry", func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
			req := gateway.SolveRequest{Frontend: frontend, FrontendOpt: c.BuildOpts().Opts}
			if err := inputs(ctx, c, w.needed, &req); err != nil {
				return nil, err
			}
			res, err := c.Solve(ctx, req)
			called = res
			return res, err
		}, k.show.of(prefix))
	} else {
		answer, err = k.client.Solve(ctx, nil, opt, k.show.of(prefix))
	}
	if err := w.targets.finish(err); err != nil {
		return build.Result{}, err
	}
	out := build.Result{Response: answer.ExporterResponse}
	if b.Call != "" && called != nil {
		out.Text, out.Failed = callAnswer(b.Call, called.Metadata)
		return out, nil
	}
	if b.Stores() {
		out.Image = answer.ExporterResponse[exptypes.ExporterImageConfigDigestKey]
		if out.Image == "" {
			out.Image = answer.ExporterResponse[exptypes.ExporterImageDigestKey]
		}
	}
	return out, nil
}

// inputs gives a build the images of others. They are in the daemon's store and
// nowhere else, so they are not asked for at a registry even if the build pulls
// all others anew.
func inputs(ctx context.Context, c gateway.Client, needed map[string]string, req *gateway.SolveRequest) error {
	req.FrontendOpt = maps.Clone(req.FrontendOpt)
	for name, tag := range needed {
		named, err := reference.ParseNormalizedNamed(tag)
		if err != nil {
			return err
		}
		ref := reference.TagNameOnly(named).String()
		_, _, config, err := c.ResolveImageConfig(ctx, ref, sourceresolver.Opt{
			ImageOpt: &sourceresolver.ResolveImageOpt{ResolveMode: pb.AttrImageResolveModePreferLocal},
		})
		if err != nil {
			return err
		}
		def, err := llb.Image(ref, llb.ResolveModePreferLocal).Marshal(ctx)
		if err != nil {
			return err
		}
		meta, err := json.Marshal(map[string][]byte{exptypes.ExporterImageConfigKey: config})
		if err != nil {
			return err
		}
		if req.FrontendInputs == nil {
			req.FrontendInputs = map[string]*pb.Definition{}
		}
		req.FrontendInputs[name] = def.ToPB()
		req.FrontendOpt["context:"+name] = "input:" + name
		req.FrontendOpt["input-metadata:"+name] = string(meta)
	}
	return nil
}

// callAnswer is what the frontend said about the Dockerfile.
func callAnswer(call string, meta map[string][]byte) (text string, failed bool) {
	text = strings.TrimRight(string(meta["result.txt"]), "\n")
	if call != "check" {
		return text, false
	}
	var found struct {
		Warnings   []json.RawMessage `json:"warnings"`
		BuildError json.RawMessage   `json:"buildError"`
	}
	if err := json.Unmarshal(meta["result.json"], &found); err != nil {
		return text, false
	}
	failed = len(found.Warnings) > 0 || len(found.BuildError) > 0
	if !failed {
		text = "Check complete, no warnings found."
	}
	return text, failed
}
