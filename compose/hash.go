package compose

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
)

// Hash is what counts as changed in a service: two services with the same hash
// need no new container. What only steers gantry does not count: the number of
// replicas, dependencies, profiles, how the image is built, pulled or watched,
// and how updates roll out.
//
// It does not see the content of secrets and configs; [HashIn] does.
func Hash(s Service) string {
	h := sha256.New()
	hashService(h, s)
	return hex.EncodeToString(h.Sum(nil))
}

// HashIn is Hash together with the content of the secrets and configs that the
// service mounts from its project: a container holds copies of these, so a new
// content needs a new container. It is what a container is labelled with.
func HashIn(p *Project, s Service) string {
	h := sha256.New()
	hashService(h, s)
	for _, ref := range s.Secrets {
		hashContent(h, "secret", ref.Source, p.Secrets[ref.Source].Content)
	}
	for _, ref := range s.Configs {
		hashContent(h, "config", ref.Source, p.Configs[ref.Source].Content)
	}
	return hex.EncodeToString(h.Sum(nil))
}

func hashService(w io.Writer, s Service) {
	s.Build = nil
	s.PullPolicy = ""
	s.PullRefreshAfter = ""
	s.Scale = nil
	s.DependsOn = nil
	s.Profiles = nil
	s.Develop = nil
	s.Attach = nil
	s.Extends = nil
	s.EnvFiles = nil // their content is in Environment
	s.LabelFiles = nil
	if s.Deploy != nil {
		d := *s.Deploy
		d.Replicas = nil
		d.UpdateConfig = nil
		d.RollbackConfig = nil
		s.Deploy = &d
	}
	hashJSON(w, "service "+s.Name, s)
}

// HashNetwork is what counts as changed in a network.
func HashNetwork(n Network) string { return hashOf("network", n) }

// HashVolume is what counts as changed in a volume.
func HashVolume(v Volume) string {
	if v.Driver == "" {
		v.Driver = "local"
	}
	return hashOf("volume", v)
}

func hashOf(kind string, v any) string {
	h := sha256.New()
	hashJSON(h, kind, v)
	return hex.EncodeToString(h.Sum(nil))
}

// hashJSON writes a value as JSON, where maps are sorted.
func hashJSON(w io.Writer, kind string, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		// Only values a loaded project cannot have: check refuses a cpus
		// that is no number. Such a service never equals another.
		data = fmt.Appendf(nil, "%v", err)
	}
	fmt.Fprintf(w, "%s\n%d\n%s", kind, len(data), data)
}

func hashContent(w io.Writer, kind, name, content string) {
	fmt.Fprintf(w, "\n%s %q %d %x", kind, name, len(content), sha256.Sum256([]byte(content)))
}
