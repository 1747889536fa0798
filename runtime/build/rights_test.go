package build

import (
	"strings"
	"testing"

	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/entitlements"
)

func TestLimitsThatNoStepCanHave(t *testing.T) {
	h := spec.Host{CPUs: 2, CpusOnline: "0-1", SwapLimit: true, Controllers: []string{"memory", "cpu", "cpuset"}}
	for text, want := range map[string]string{
		"":                         "",
		"memory=6291456":           "",
		"memory=3":                 "mem_limit: 3 bytes is less than 6 MiB",
		"memswap=10000000":         "memswap_limit: is memory and swap together",
		"memory=9000000 memswap=8": "cannot be less than mem_limit",
		"cpuperiod=1":              "cpu_period",
		"cpusetcpus=9":             "cpuset",
		"memory=many":              "", // the frontend's to refuse
		"ulimit=nofile=1:2":        "",
		"ulimit=nofile=2:1":        "ulimit \"nofile=2:1\"",
		"ulimit=files=1":           "ulimit \"files=1\"",
		"cgroup-parent=/a/b":       "",
		"cgroup-parent=a/../../b":  "cgroup_parent",
	} {
		opts := map[string]string{}
		for pair := range strings.FieldsSeq(text) {
			key, value, _ := strings.Cut(pair, "=")
			opts[key] = value
		}
		err := checkSteps(opts, h)
		if want == "" && err != nil || want != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestRightsThatStepsAskFor(t *testing.T) {
	def := &pb.Definition{}
	for _, op := range []*pb.Op{
		{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "docker-image://x"}}},
		{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: []string{"plain"}}}}},
		{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: []string{"curl", "x"}}, Network: pb.NetMode_HOST}}},
		{Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: []string{"mount"}}, Network: pb.NetMode_HOST, Security: pb.SecurityMode_INSECURE}}},
	} {
		b, err := op.MarshalVT()
		if err != nil {
			t.Fatal(err)
		}
		def.Def = append(def.Def, b)
	}
	host, insecure := entitlements.EntitlementNetworkHost, entitlements.EntitlementSecurityInsecure
	if got := asked(def); len(got) != 2 || got[host].step != "curl x" || got[insecure].step != "mount" {
		t.Errorf("asked %+v", got)
	}
	for _, c := range []struct {
		granted []string
		want    string
	}{
		{nil, "--allow network.host"},
		{[]string{string(host)}, "build.entitlements: [security.insecure]"},
		{[]string{string(host), string(insecure)}, ""},
	} {
		var g grants
		over := g.give("s", c.granted)
		n := native{granted: func(e entitlements.Entitlement) bool { return g.has("s", e) }}
		err := n.checkRights(def)
		if c.want == "" && err != nil || c.want != "" && (!errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%q granted: %v, want %q", c.granted, err, c.want)
		}
		if over(); len(g.all) != 0 {
			t.Errorf("grants outlive their build: %v", g.all)
		}
	}
}

// Of two builds in one session the end of one leaves what the other was granted.
func TestGrantsOfOneSession(t *testing.T) {
	var g grants
	host := entitlements.EntitlementNetworkHost
	one, two := g.give("s", []string{string(host)}), g.give("s", []string{string(host)})
	one()
	if !g.has("s", host) || g.has("other", host) {
		t.Errorf("grants %v", g.all)
	}
	two()
	if g.has("s", host) {
		t.Errorf("grants %v", g.all)
	}
}
