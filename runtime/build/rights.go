package build

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"

	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	solvererrors "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/opencontainers/go-digest"
)

// What steps may take and ask for is compared with what they can have and are
// allowed before the first of them runs. BuildKit would find out at the step, and
// the executor when the step begins, if no cache has it.

// checkSteps refuses what no step can be given. opts are the frontend's; it knows
// itself what is no number.
func checkSteps(opts map[string]string, h spec.Host) error {
	number := func(key string) int64 {
		n, _ := strconv.ParseInt(opts[key], 10, 64)
		return n
	}
	c := spec.Config{
		Command: []string{"true"}, CgroupParent: opts["cgroup-parent"],
		Resources: spec.Resources{
			Memory: number("memory"), MemorySwap: number("memswap"),
			CPUShares: uint64(max(number("cpushares"), 0)), CPUPeriod: uint64(max(number("cpuperiod"), 0)), CPUQuota: number("cpuquota"),
			CpusetCpus: opts["cpusetcpus"], CpusetMems: opts["cpusetmems"],
		},
	}
	for text := range strings.SplitSeq(opts["ulimit"], ",") {
		if text == "" {
			continue
		}
		u, err := units.ParseUlimit(text)
		if err != nil {
			return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf("ulimit %q of the build's steps: %v", text, err))
		}
		c.Ulimits = append(c.Ulimits, spec.Ulimit{Name: u.Name, Soft: u.Soft, Hard: u.Hard})
	}
	if err := c.Validate(h); err != nil {
		return fmt.Errorf("limits of the build's steps: %w", err)
	}
	return nil
}

// grants are the entitlements of the builds under way, by their sessions.
type grants struct {
	mu  sync.Mutex
	all map[string][][]string
}

// give notes what a build may ask for until it is over.
func (g *grants) give(session string, granted []string) (over func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.all == nil {
		g.all = map[string][][]string{}
	}
	granted = slices.Clone(granted) // the request is BuildKit's
	g.all[session] = append(g.all[session], granted)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		left := g.all[session]
		i := slices.IndexFunc(left, func(x []string) bool { return slices.Equal(x, granted) })
		left = slices.Delete(left, i, i+1)
		if g.all[session] = left; len(left) == 0 {
			delete(g.all, session)
		}
	}
}

// has tells whether a build of the session was granted e.
func (g *grants) has(session string, e entitlements.Entitlement) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.ContainsFunc(g.all[session], func(granted []string) bool { return slices.Contains(granted, string(e)) })
}

// ask is a step that asks for a right.
type ask struct {
	step   string // its command
	source *solvererrors.Source
}

// asked are the rights that steps of a definition ask for, each with the first
// step that does. It is pure.
func asked(def *pb.Definition) map[entitlements.Entitlement]ask {
	all := map[entitlements.Entitlement]ask{}
	for _, bytes := range def.GetDef() {
		var op pb.Op
		if op.UnmarshalVT(bytes) != nil || op.GetExec() == nil {
			continue // the solver says what is wrong with it
		}
		exec := op.GetExec()
		for e, wanted := range map[entitlements.Entitlement]bool{
			entitlements.EntitlementNetworkHost:      exec.Network == pb.NetMode_HOST,
			entitlements.EntitlementSecurityInsecure: exec.Security == pb.SecurityMode_INSECURE,
		} {
			if _, known := all[e]; wanted && !known {
				all[e] = ask{strings.Join(exec.Meta.GetArgs(), " "), sourceOf(def, digest.FromBytes(bytes))}
			}
		}
	}
	return all
}

// sourceOf are the lines of the file that an operation comes from; nil: it is not
// known.
func sourceOf(def *pb.Definition, op digest.Digest) *solvererrors.Source {
	for _, l := range def.GetSource().GetLocations()[op.String()].GetLocations() {
		if i := int(l.SourceIndex); i >= 0 && i < len(def.Source.Infos) {
			return &solvererrors.Source{Info: def.Source.Infos[i], Ranges: l.Ranges}
		}
	}
	return nil
}

// checkRights refuses steps that ask for more than the build was granted.
func (n *native) checkRights(def *pb.Definition) error {
	steps := asked(def)
	for _, r := range []struct {
		e    entitlements.Entitlement
		what string
	}{
		{entitlements.EntitlementNetworkHost, "the host's network"},
		{entitlements.EntitlementSecurityInsecure, "the rights of a privileged container"},
	} {
		s, ok := steps[r.e]
		if !ok || n.granted(r.e) {
			continue
		}
		err := errdefs.ErrPermissionDenied.WithMessage(fmt.Sprintf("the step %q asks for %s: allow it with --allow %s or, in a compose file, with build.entitlements: [%s]", s.step, r.what, r.e, r.e))
		if s.source != nil {
			err = solvererrors.WithSource(err, s.source)
		}
		return err
	}
	return nil
}
