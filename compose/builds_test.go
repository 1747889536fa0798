package compose

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What a service's image is built from is built with the secrets that takes, if
// the other service is enabled or not, and whether anybody names it.
func TestSecretsOfBuildsOfDisabledServices(t *testing.T) {
	text := `
name: shop
secrets: {token: {file: ./token}, unset: {environment: NOT_SET_ANYWHERE}, other: {file: ./nosuch}}
services:
  lone: {image: x, profiles: [off], secrets: [other], build: {context: ., secrets: [other]}}
  deep: {profiles: [off], build: {context: ., secrets: [token, unset]}}
  base: {profiles: [off], build: {context: ., additional_contexts: {b: "service:deep"}}}
  app: {build: {context: ., additional_contexts: {b: "service:base"}}}
  web: {image: x}
`
	for _, tt := range []struct {
		services []string
		secrets  []string
		builds   []string
	}{
		{nil, []string{"token", "unset"}, []string{"deep", "base", "app"}},
		{[]string{"app"}, []string{"token", "unset"}, []string{"deep", "base", "app"}},
		{[]string{"web"}, nil, nil},
	} {
		p := mustLoad(t, text, func(s *Source) { s.Services = tt.services })
		if d := cmp.Diff(tt.builds, NeededBuilds(p, p.ServiceNames())); d != "" {
			t.Errorf("%q: %s", tt.services, d)
		}
		if got := p.SecretNames(); !cmp.Equal(got, tt.secrets) && len(got)+len(tt.secrets) > 0 {
			t.Errorf("%q: secrets %q, want %q", tt.services, got, tt.secrets)
		}
		for name, s := range p.Secrets {
			if s.Content != "" {
				t.Errorf("%q: the content of %s is in the project", tt.services, name)
			}
		}
	}
}
