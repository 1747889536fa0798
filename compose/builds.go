package compose

import (
	"maps"
	"slices"
	"strings"

	"github.com/compose-spec/compose-go/v2/types"
)

// AnyService is a service of a project, enabled or not.
func AnyService(p *Project, name string) Service {
	s, ok := p.Services[name]
	if !ok {
		s = p.DisabledServices[name]
	}
	s.Name = name
	return s
}

// NeededBuilds are those of the services that have a build section and, each
// before the ones that need it, those whose images their builds begin with. Such
// a service may be one that is disabled: it is built and not run.
func NeededBuilds(p *Project, services []string) []string {
	var all []string
	var visit func(string)
	seen := map[string]bool{}
	visit = func(name string) {
		if seen[name] {
			return
		}
		seen[name] = true
		b := AnyService(p, name).Build
		if b == nil {
			return
		}
		for _, k := range slices.Sorted(maps.Keys(b.AdditionalContexts)) {
			if needed, ok := strings.CutPrefix(b.AdditionalContexts[k], ServicePrefix); ok {
				visit(needed)
			}
		}
		all = append(all, name)
	}
	for _, name := range services {
		visit(name)
	}
	return all
}

// withBuildSecrets is a project with those secrets of the whole one that builds
// of disabled services need, for the sake of enabled ones. Nobody mounts them, so
// their content is left where it is.
func withBuildSecrets(p, whole *Project) *Project {
	more := types.Secrets{}
	for _, name := range NeededBuilds(p, p.ServiceNames()) {
		for _, ref := range AnyService(p, name).Build.Secrets {
			_, here := p.Secrets[ref.Source]
			if s, ok := whole.Secrets[ref.Source]; ok && !here {
				more[ref.Source] = s
			}
		}
	}
	if len(more) == 0 {
		return p
	}
	out := *p
	out.Secrets = maps.Clone(p.Secrets)
	if out.Secrets == nil {
		out.Secrets = types.Secrets{}
	}
	maps.Copy(out.Secrets, more)
	return &out
}
