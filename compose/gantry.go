package compose

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// extension is the key under which a project and its services say what Compose
// has no word for. Other tools pass over it.
const extension = "x-gantry"

// ProjectGantry is x-gantry of a project.
type ProjectGantry struct {
	// Publish: "loopback" publishes ports that name no address of the host on
	// 127.0.0.1 alone; "" and "all" on every one.
	Publish string
}

// ServiceGantry is x-gantry of a service.
type ServiceGantry struct {
	Sticky      string // "source": the connections of one client go to one replica
	OnUnhealthy string // "restart": an unhealthy container is restarted
	Schedule    string // a job's times, as cron writes them
	Autoscale   *Autoscale
	Probe       *Probe // healthcheck
}

// Autoscale bounds and steers the number of replicas.
type Autoscale struct {
	Min, Max int
	// CPU and Memory are the usage aimed at, in hundredths of what a replica
	// is limited to (a processor, where it has no limit); 0: not looked at.
	CPU, Memory int
	// Stabilization is for how long a lower number must have been enough
	// before there are fewer replicas; 0: not said.
	Stabilization time.Duration
}

// Within is the nearest number of replicas to n that there may be.
func (a Autoscale) Within(n int) int { return min(max(n, a.Min), a.Max) }

// Probe is a health check made from outside, without a process inside.
type Probe struct {
	TCP  int    // port to connect to; 0 for HTTP
	HTTP string // "PORT/PATH"
	// The rest is as in healthcheck; 0: not said.
	Interval, Timeout, StartPeriod, StartInterval time.Duration
	Retries                                       int
}

// Gantry reads x-gantry of a project.
func Gantry(p *Project) (ProjectGantry, error) {
	var g ProjectGantry
	r := extensionReader{path: []string{extension}}
	r.object(p.Extensions[extension], map[string]func(any){
		"publish": r.oneOf(&g.Publish, "loopback", "all"),
	})
	return g, r.failure()
}

// GantryOf reads x-gantry of a service.
func GantryOf(s Service) (ServiceGantry, error) {
	if s.Extensions[extension] == nil {
		return ServiceGantry{}, nil // as nearly always
	}
	kept := s // s itself stays on the stack
	return readGantry(&kept)
}

func readGantry(s *Service) (ServiceGantry, error) {
	var g ServiceGantry
	r := extensionReader{path: []string{"services", s.Name, extension}}
	r.object(s.Extensions[extension], map[string]func(any){
		"sticky":       r.oneOf(&g.Sticky, "source"),
		"on_unhealthy": r.oneOf(&g.OnUnhealthy, "restart"),
		"schedule":     r.schedule(&g.Schedule),
		"autoscale": func(v any) {
			a := &Autoscale{Min: 1}
			r.object(v, map[string]func(any){
				"min": r.whole(&a.Min, 1), "max": r.whole(&a.Max, 1),
				"cpu": r.percent(&a.CPU), "memory": r.percent(&a.Memory),
				"stabilization": r.duration(&a.Stabilization),
			})
			switch {
			case r.err != nil:
			case a.Max < a.Min || a.Max == 0:
				r.fail(fmt.Sprintf("max %d is less than min %d", a.Max, a.Min), "give the largest number of replicas as max")
			case a.CPU == 0 && a.Memory == 0:
				r.fail("neither cpu nor memory says what to aim at", "add cpu: 70%")
			case a.Memory > 0 && memoryLimit(*s) == 0:
				r.fail("memory is aimed at in hundredths of a limit, and there is none", "add mem_limit, or aim at cpu")
			case a.Max > 1 && s.ContainerName != "":
				r.fail(fmt.Sprintf("%d replicas cannot share the name %q", a.Max, s.ContainerName), "remove container_name")
			}
			g.Autoscale = a
		},
		"healthcheck": func(v any) {
			p := &Probe{}
			r.object(v, map[string]func(any){
				"tcp": r.port(&p.TCP), "http": r.address(&p.HTTP),
				"interval": r.duration(&p.Interval), "timeout": r.duration(&p.Timeout), "retries": r.whole(&p.Retries, 1),
				"start_period": r.duration(&p.StartPeriod), "start_interval": r.duration(&p.StartInterval),
			})
			switch {
			case r.err != nil:
			case (p.TCP == 0) == (p.HTTP == ""):
				r.fail("must have either tcp or http", "write tcp: 5432, or http: 8080/health")
			case s.HealthCheck != nil && !s.HealthCheck.Disable:
				r.fail("the service has a healthcheck as well", "keep one of them")
			}
			g.Probe = p
		},
	})
	if r.err == nil && g.Schedule != "" {
		r.path = append(r.path, "schedule")
		r.job(*s, g)
	}
	return g, r.failure()
}

// job refuses what a service that is run at times cannot be as well.
func (r *extensionReader) job(s Service, g ServiceGantry) {
	d := s.Deploy
	switch {
	case g.Autoscale != nil:
		r.fail("a job has no replicas that could be autoscaled", "keep schedule or autoscale")
	case s.GetScale() > 1:
		r.fail(fmt.Sprintf("a run is one container, and %d replicas are asked for", s.GetScale()), "remove deploy.replicas or scale")
	case d != nil && d.RestartPolicy != nil && (d.RestartPolicy.Condition == "" || d.RestartPolicy.Condition == "any"):
		r.fail("deploy.restart_policy restarts what has ended, so that a run never would", "set its condition to none or on-failure")
	case (d == nil || d.RestartPolicy == nil) && (s.Restart == "always" || s.Restart == "unless-stopped"):
		r.fail("restart: "+s.Restart+" starts again what has ended, so that a run never would", "write restart: on-failure, or remove it")
	}
}

// loopback is the address of a port that only the machine itself can reach.
const loopback = "127.0.0.1"

// publishAsSaid gives ports without an address of the host the one that the
// project's x-gantry asks for. From then on it is part of them, for all to see.
func publishAsSaid(p *Project) error {
	g, err := Gantry(p)
	if err != nil || g.Publish != "loopback" {
		return err
	}
	for name, s := range p.Services {
		s.Ports = slices.Clone(s.Ports)
		for i := range s.Ports {
			if s.Ports[i].HostIP == "" {
				s.Ports[i].HostIP = loopback
			}
		}
		p.Services[name] = s
	}
	return nil
}

// memoryLimit is what a replica may use, in bytes; 0: no limit.
func memoryLimit(s Service) UnitBytes {
	if s.Deploy != nil && s.Deploy.Resources.Limits != nil && s.Deploy.Resources.Limits.MemoryBytes != 0 {
		return s.Deploy.Resources.Limits.MemoryBytes
	}
	return s.MemLimit
}

// extensionReader reads values of a form that no schema has checked, and keeps
// the first error.
type extensionReader struct {
	path []string // of what is being read
	err  *Error
}

func (r *extensionReader) failure() error {
	if r.err == nil {
		return nil
	}
	return r.err
}

func (r *extensionReader) fail(cause, next string) {
	if r.err == nil {
		r.err = invalid(strings.Join(r.path, "."), cause, next)
	}
}

// object reads the keys of an object, in the same order every time.
func (r *extensionReader) object(v any, keys map[string]func(any)) {
	if v == nil {
		return
	}
	m, ok := v.(map[string]any)
	if !ok {
		r.fail("must be an object", "")
		return
	}
	for _, key := range slices.Sorted(maps.Keys(m)) {
		r.path = append(r.path, key)
		if read, known := keys[key]; known {
			read(m[key])
		} else {
			next := "remove it"
			if guess := closest(key, slices.Sorted(maps.Keys(keys))); guess != "" {
				next = "did you mean " + guess + "?"
			}
			r.fail("unknown key "+key, next)
		}
		r.path = r.path[:len(r.path)-1]
	}
}

func (r *extensionReader) schedule(to *string) func(any) {
	return func(v any) {
		s, _ := v.(string)
		if _, err := cron.ParseStandard(s); err != nil {
			r.fail(fmt.Sprintf("%q is no schedule: %v", fmt.Sprint(v), err), `write minute, hour, day, month and weekday, such as "0 3 * * *", or @daily`)
		}
		*to = s
	}
}

func (r *extensionReader) oneOf(to *string, words ...string) func(any) {
	return func(v any) {
		s, _ := v.(string)
		if !slices.Contains(words, s) {
			r.fail(fmt.Sprintf("%q is not supported", fmt.Sprint(v)), "write "+strings.Join(words, " or "))
		}
		*to = s
	}
}

func (r *extensionReader) whole(to *int, least int) func(any) {
	return func(v any) {
		n, err := strconv.Atoi(fmt.Sprint(v))
		if err != nil || n < least {
			r.fail(fmt.Sprintf("%v is no whole number from %d", v, least), "")
		}
		*to = n
	}
}

func (r *extensionReader) port(to *int) func(any) {
	return func(v any) {
		n, err := strconv.ParseUint(fmt.Sprint(v), 10, 16)
		if err != nil || n == 0 {
			r.fail(fmt.Sprintf("%v is no port", v), "write a number from 1 to 65535")
		}
		*to = int(n)
	}
}

// address reads PORT/PATH; a port alone stands for its root.
func (r *extensionReader) address(to *string) func(any) {
	return func(v any) {
		text := fmt.Sprint(v)
		port, path, _ := strings.Cut(text, "/")
		n, err := strconv.ParseUint(port, 10, 16)
		if err == nil {
			_, err = url.ParseRequestURI("/" + path)
		}
		if err != nil || n == 0 || strings.HasPrefix(path, "/") {
			r.fail(fmt.Sprintf("%q is no port and path", text), "write it as 8080/health")
		}
		*to = text
	}
}

func (r *extensionReader) percent(to *int) func(any) {
	return func(v any) {
		text, _ := strings.CutSuffix(fmt.Sprint(v), "%")
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			r.fail(fmt.Sprintf("%v is no percentage", v), "write it as 70%")
		}
		*to = n
	}
}

func (r *extensionReader) duration(to *time.Duration) func(any) {
	return func(v any) {
		d, err := time.ParseDuration(fmt.Sprint(v))
		if err != nil || d <= 0 {
			r.fail(fmt.Sprintf("%v is no duration", v), "write it as 10s")
		}
		*to = d
	}
}

// checkExtensions refuses what x-gantry says and gantry does not know.
func checkExtensions(p *Project, l *locator) error {
	if _, err := Gantry(p); err != nil {
		return placed(l, err)
	}
	for _, name := range p.ServiceNames() {
		s := p.Services[name]
		s.Name = name
		if _, err := GantryOf(s); err != nil {
			return placed(l, err, "services", name)
		}
		for _, on := range sortedKeys(s.DependsOn) {
			if g, err := GantryOf(p.Services[on]); err == nil && g.Schedule != "" {
				return l.at(invalid("services."+name+".depends_on."+on, on+" is run by its schedule, so nobody can wait for it",
					"remove the dependency, or x-gantry.schedule of "+on), "services", name, "depends_on", on)
			}
		}
	}
	return nil
}

// placed gives an error its line. within is the object it is in, whose names may
// have dots.
func placed(l *locator, err error, within ...string) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	rest := e.Object
	if len(within) > 0 {
		rest = strings.TrimPrefix(rest, strings.Join(within, ".")+".")
	}
	return l.at(e, append(slices.Clone(within), strings.Split(rest, ".")...)...)
}
