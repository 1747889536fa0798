package compose

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
)

// UnsupportedBuilds names every attribute of the build sections of services
// that gantry cannot honour, as [Unsupported] does for the rest; such a service
// must not be built.
func UnsupportedBuilds(p *Project, services []string) []error {
	r := &refusals{loc: projectLocator(p)}
	for _, name := range services {
		if s := AnyService(p, name); s.Build != nil {
			refuseBuild(r, s)
		}
	}
	return r.errs
}

// What a build can have.
var (
	buildNetworks     = []string{"", "default", "none", "host"}
	buildEntitlements = []string{"network.host", "security.insecure"}
)

func refuseBuild(r *refusals, s Service) {
	b := s.Build
	r.service(s, b.Isolation != "" && b.Isolation != "default", "build.isolation", "isolation "+strconv.Quote(b.Isolation)+" exists on Windows alone")
	r.service(s, !slices.Contains(buildNetworks, b.Network), "build.network",
		fmt.Sprintf("network %q is not supported: the steps of a build are on the default network, on the host's, or on none", b.Network))
	for _, e := range b.Entitlements {
		r.service(s, !slices.Contains(buildEntitlements, e), "build.entitlements",
			fmt.Sprintf("entitlement %q is not supported (only %s)", e, strings.Join(buildEntitlements, ", ")))
	}
	for _, platform := range b.Platforms {
		_, err := platforms.Parse(platform)
		r.service(s, err != nil, "build.platforms", fmt.Sprintf("%q is no platform", platform))
	}
	for _, secret := range b.Secrets {
		set := secret.UID != "" || secret.GID != "" || secret.Mode != nil
		r.service(s, set, "build.secrets", fmt.Sprintf("uid, gid and mode of secret %s are not supported: its mount in the Dockerfile says them", secret.Source))
	}
}
