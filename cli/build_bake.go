package cli

import (
	"encoding/json"
	"io"
	"slices"
	"strings"

	"gantry/client/build"
)

// bakeTarget is a build in the words of a bake file, Docker's format for
// several builds. Secrets are named, not told.
type bakeTarget struct {
	Context       string            `json:"context,omitempty"`
	Contexts      map[string]string `json:"contexts,omitempty"`
	Dockerfile    string            `json:"dockerfile,omitempty"`
	Inline        string            `json:"dockerfile-inline,omitempty"`
	Args          map[string]string `json:"args,omitempty"`
	Labels        map[string]string `json:"labels,omitempty"`
	Tags          []string          `json:"tags,omitempty"`
	CacheFrom     []string          `json:"cache-from,omitempty"`
	CacheTo       []string          `json:"cache-to,omitempty"`
	Target        string            `json:"target,omitempty"`
	Secrets       []string          `json:"secret,omitempty"`
	SSH           []string          `json:"ssh,omitempty"`
	Platforms     []string          `json:"platforms,omitempty"`
	Pull          bool              `json:"pull,omitempty"`
	NoCache       bool              `json:"no-cache,omitempty"`
	NoCacheFilter []string          `json:"no-cache-filter,omitempty"`
	NetworkMode   string            `json:"network,omitempty"`
	ShmSize       int64             `json:"shm-size,omitempty"`
	Ulimits       []string          `json:"ulimits,omitempty"`
	Call          string            `json:"call,omitempty"`
	Entitlements  []string          `json:"entitlements,omitempty"`
	ExtraHosts    map[string]string `json:"extra-hosts,omitempty"`
	Attest        []string          `json:"attest,omitempty"`
	Outputs       []string          `json:"output,omitempty"`
}

// printBake writes builds as a bake file.
func printBake(w io.Writer, requests []build.Request) error {
	type group struct {
		Targets []string `json:"targets"`
	}
	var names group
	targets := map[string]bakeTarget{}
	for _, r := range requests {
		names.Targets = append(names.Targets, r.Name)
		targets[r.Name] = asBake(r)
	}
	slices.Sort(names.Targets)
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(struct {
		Group  map[string]group      `json:"group"`
		Target map[string]bakeTarget `json:"target"`
	}{map[string]group{"default": names}, targets})
}

func asBake(r build.Request) bakeTarget {
	t := bakeTarget{Context: r.Context, Dockerfile: r.Dockerfile, Inline: r.Inline, Args: r.Args, Labels: r.Labels, Tags: r.Tags,
		Target: r.Target, Platforms: r.Platforms, Pull: r.Pull, NoCache: r.NoCache, NoCacheFilter: r.NoCacheFilter,
		NetworkMode: r.Network, ShmSize: r.ShmSize, Ulimits: r.Ulimits, Call: r.Call, Entitlements: r.Entitlements()}
	for name, source := range r.Contexts {
		if t.Contexts == nil {
			t.Contexts = map[string]string{}
		}
		if service, ok := strings.CutPrefix(source, build.ServicePrefix); ok {
			source = "target:" + service
		}
		t.Contexts[name] = source
	}
	for _, h := range r.ExtraHosts {
		name, addr, _ := strings.Cut(h, "=")
		if t.ExtraHosts == nil {
			t.ExtraHosts = map[string]string{}
		}
		if t.ExtraHosts[name] != "" {
			addr = t.ExtraHosts[name] + "," + addr
		}
		t.ExtraHosts[name] = addr
	}
	for _, s := range r.Secrets {
		text := "id=" + s.ID
		if s.File != "" {
			text += ",type=file,src=" + s.File
		} else {
			text += ",type=env"
		}
		t.Secrets = append(t.Secrets, text)
	}
	for _, k := range r.SSH {
		text := k.ID
		if len(k.Paths) > 0 {
			text += "=" + strings.Join(k.Paths, ",")
		}
		t.SSH = append(t.SSH, text)
	}
	for _, c := range r.CacheFrom {
		t.CacheFrom = append(t.CacheFrom, c.String())
	}
	for _, c := range r.CacheTo {
		t.CacheTo = append(t.CacheTo, c.String())
	}
	for _, o := range r.Outputs {
		t.Outputs = append(t.Outputs, o.String())
	}
	for kind, value := range r.Attests {
		text := "type=" + kind
		if value != "" {
			text += "," + value
		}
		t.Attest = append(t.Attest, text)
	}
	slices.Sort(t.Attest)
	return t
}
