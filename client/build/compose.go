package build

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gantry/compose"

	"github.com/docker/go-units"
)

// FromCompose is the build section of a service as a request, named after the
// service. The image goes into the daemon's store under the name the service
// runs and the section's tags.
//
// Secrets are left where they are, to be read when a step asks for them.
func FromCompose(p *compose.Project, name string) (Request, error) {
	s := compose.AnyService(p, name)
	b := s.Build
	if b == nil {
		return Request{}, invalid("service %s has no build section", name)
	}
	fail := func(err error) (Request, error) { return Request{}, &Error{Name: name, Err: err} }
	r := Request{
		Name: name, Context: b.Context, Inline: b.DockerfileInline, Target: b.Target,
		Args: map[string]string{}, Labels: maps.Clone(b.Labels),
		NoCache: b.NoCache, NoCacheFilter: b.NoCacheFilter, Pull: b.Pull,
		Platforms: slices.Clone(b.Platforms), Network: b.Network, ShmSize: int64(b.ShmSize),
		Allow:   slices.Clone(b.Entitlements),
		Outputs: []Output{{Type: OutputImage, Attrs: map[string]string{}}},
	}
	if len(r.Platforms) == 0 && s.Platform != "" {
		r.Platforms = []string{s.Platform}
	}
	if b.Privileged {
		r.Allow = append(r.Allow, AllowInsecure)
	}
	if r.Context == "" {
		r.Context = "."
	}
	if !IsRemote(r.Context) && r.Context != Stdin {
		r.Context = within(p.WorkingDir, r.Context)
	}
	r.Dockerfile = b.Dockerfile
	if r.Dockerfile != "" && !IsRemote(r.Context) {
		r.Dockerfile = within(r.Context, r.Dockerfile)
	}
	for k, v := range b.Args {
		if v != nil { // nil: not set anywhere
			r.Args[k] = *v
		}
	}
	for k, source := range b.AdditionalContexts {
		if path, ok := strings.CutPrefix(source, "oci-layout://"); ok {
			source = "oci-layout://" + within(p.WorkingDir, path)
		} else if !isSource(source) {
			source = within(p.WorkingDir, source)
		}
		if r.Contexts == nil {
			r.Contexts = map[string]string{}
		}
		r.Contexts[k] = source
	}
	for _, tag := range append([]string{compose.ImageName(p, s)}, b.Tags...) {
		if !slices.Contains(r.Tags, tag) {
			r.Tags = append(r.Tags, tag)
		}
	}
	r.ExtraHosts = b.ExtraHosts.AsList("=")
	slices.Sort(r.ExtraHosts)
	for _, k := range slices.Sorted(maps.Keys(b.Ulimits)) {
		u := b.Ulimits[k]
		limit := fmt.Sprintf("%s=%d:%d", k, u.Soft, u.Hard)
		if u.Single != 0 {
			limit = fmt.Sprintf("%s=%d", k, u.Single)
		}
		r.Ulimits = append(r.Ulimits, limit)
	}
	for _, k := range b.SSH {
		key := Key{ID: k.ID}
		if k.Path != "" {
			key.Paths = []string{within(p.WorkingDir, k.Path)}
		}
		r.SSH = append(r.SSH, key)
	}
	slices.SortFunc(r.SSH, func(a, b Key) int { return strings.Compare(a.ID, b.ID) })
	for _, ref := range b.Secrets {
		secret, err := fromSecret(p, ref)
		if err != nil {
			return fail(err)
		}
		r.Secrets = append(r.Secrets, secret)
	}
	var err error
	if r.CacheFrom, err = caches("cache_from", b.CacheFrom, p.WorkingDir); err != nil {
		return fail(err)
	}
	if r.CacheTo, err = caches("cache_to", b.CacheTo, p.WorkingDir); err != nil {
		return fail(err)
	}
	for kind, value := range map[string]string{"provenance": b.Provenance, "sbom": b.SBOM} {
		if err := r.Attest(kind, value); err != nil {
			return fail(err)
		}
	}
	if err := r.Check(); err != nil {
		return fail(err)
	}
	return r, nil
}

// Attest takes in an attestation as Compose writes it; an empty value says
// nothing.
func (r *Request) Attest(kind, value string) error {
	if value == "" {
		return nil
	}
	more, err := ParseAttest(kind, value)
	if err != nil {
		return err
	}
	if r.Attests == nil {
		r.Attests = map[string]string{}
	}
	delete(r.Attests, kind)
	maps.Copy(r.Attests, more)
	return nil
}

func caches(what string, texts []string, dir string) ([]Cache, error) {
	var all []Cache
	for _, text := range texts {
		c, err := ParseCache(what, text, dir)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	return all, nil
}

func fromSecret(p *compose.Project, ref compose.ServiceSecret) (Secret, error) {
	s, ok := p.Secrets[ref.Source]
	if !ok {
		return Secret{}, invalid("undefined secret %s; define it under secrets at the top level", ref.Source)
	}
	out := Secret{ID: ref.Target}
	if out.ID == "" {
		out.ID = ref.Source
	}
	switch {
	case s.File != "":
		out.File = within(p.WorkingDir, filepath.Clean(s.File))
		return out, out.check("secret")
	case s.Environment != "":
		value, ok := p.Environment[s.Environment]
		if !ok && s.Content == "" {
			return out, invalid("secret %s: the variable %s is not set", ref.Source, s.Environment)
		} else if !ok {
			value = s.Content
		}
		out.Content = []byte(value)
	case s.Content != "":
		out.Content = []byte(s.Content)
	default:
		return out, unsupported("secret %s: external secrets are not supported; give it a file or an environment", ref.Source)
	}
	return out, nil
}

// Bytes reads a size as docker writes it: "64m", "1g", a number of bytes.
func Bytes(what, text string) (int64, error) {
	n, err := units.RAMInBytes(text)
	if err != nil || n < 0 {
		return 0, invalid("%s %q is not a size such as 64m", what, text)
	}
	return n, nil
}

// Limit sets a limit of the steps in the frontend's words.
func (r *Request) Limit(key string, n int64) {
	if r.Limits == nil {
		r.Limits = map[string]string{}
	}
	r.Limits[key] = strconv.FormatInt(n, 10)
}
