package compose

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// check refuses a project whose parts do not fit together. compose-go checks
// most of this as well; here it is said with the place and the next step, and
// in the same order every time.
func check(p *Project, l *locator) error {
	names := map[string]string{}
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		if err := checkService(p, s, l); err != nil {
			return err
		}
		if s.ContainerName != "" {
			if other, taken := names[s.ContainerName]; taken {
				return l.at(invalid("services."+name+".container_name", fmt.Sprintf("%q is also the name of service %s", s.ContainerName, other),
					"give each its own, or none"), "services", name, "container_name")
			}
			names[s.ContainerName] = name
		}
	}
	if err := checkExtensions(p, l); err != nil {
		return err
	}
	_, err := NewGraph(p)
	var e *Error
	if errors.As(err, &e) {
		// The object is services.NAME.KEY; the service it is about last.
		path := strings.SplitN(e.Object, ".", 2)
		name, key := splitLast(path[1])
		return l.at(e, "services", name, key, lastWord(e.Cause))
	}
	return err
}

func checkService(p *Project, s Service, l *locator) error {
	object := "services." + s.Name
	if s.Image == "" && s.Build == nil && s.Provider == nil {
		return l.at(invalid(object, "neither image nor build says what to run", "add an image"), "services", s.Name)
	}
	if s.NetworkMode != "" && len(s.Networks) > 0 {
		return l.at(invalid(object, "network_mode and networks exclude each other", "keep one of them"), "services", s.Name, "network_mode")
	}
	undefined := func(key, kind, name string, known []string) error {
		next := "define it under " + key + " at the top level or remove it here"
		if guess := closest(name, known); guess != "" {
			next = "did you mean " + guess + "?"
		}
		return l.at(invalid(object+"."+key, "undefined "+kind+" "+name, next), "services", s.Name, key, name)
	}
	for _, n := range sortedKeys(s.Networks) {
		if _, ok := p.Networks[n]; !ok {
			return undefined("networks", "network", n, p.NetworkNames())
		}
	}
	for _, v := range s.Volumes {
		if v.Type == VolumeTypeVolume && v.Source != "" {
			if _, ok := p.Volumes[v.Source]; !ok {
				return undefined("volumes", "volume", v.Source, p.VolumeNames())
			}
		}
	}
	for _, c := range s.Configs {
		if _, ok := p.Configs[c.Source]; !ok {
			return undefined("configs", "config", c.Source, p.ConfigNames())
		}
	}
	for _, c := range s.Secrets {
		if _, ok := p.Secrets[c.Source]; !ok {
			return undefined("secrets", "secret", c.Source, p.SecretNames())
		}
	}
	if h := s.HealthCheck; h != nil && len(h.Test) > 0 && !slices.Contains([]string{"CMD", "CMD-SHELL", "NONE"}, h.Test[0]) {
		return l.at(invalid(object+".healthcheck.test", fmt.Sprintf("a list must begin with CMD, CMD-SHELL or NONE, not %q", h.Test[0]),
			`write ["CMD", …] or a plain string`), "services", s.Name, "healthcheck", "test")
	}
	if n := s.GetScale(); n < 0 {
		return l.at(invalid(object, fmt.Sprintf("%d replicas", n), "ask for 0 or more"), "services", s.Name, "scale")
	} else if n > 1 && s.ContainerName != "" {
		return l.at(invalid(object+".container_name", fmt.Sprintf("%d replicas cannot share the name %q", n, s.ContainerName),
			"remove container_name or ask for one replica"), "services", s.Name, "container_name")
	}
	if f := float64(s.CPUS); math.IsNaN(f) || math.IsInf(f, 0) || f < 0 {
		return l.at(invalid(object+".cpus", fmt.Sprintf("%v is no number of processors", f), "write a number such as 0.5"), "services", s.Name, "cpus")
	}
	return checkUpdates(s, l)
}

func invalid(object, cause, next string) *Error {
	return &Error{Object: object, Cause: cause, Next: next, class: errdefs.ErrInvalidArgument}
}

func splitLast(s string) (head, tail string) {
	i := strings.LastIndex(s, ".")
	return s[:i], s[i+1:]
}

func lastWord(s string) string { return s[strings.LastIndex(s, " ")+1:] }
