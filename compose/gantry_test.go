package compose

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestGantryExtension(t *testing.T) {
	p, err := load(t, `
x-gantry: {publish: loopback}
services:
  web:
    image: web
    x-gantry:
      sticky: source
      on_unhealthy: restart
      autoscale: {min: 2, max: 8, cpu: 70%, stabilization: 1m}
      healthcheck: {http: 8080/health, interval: 2s}
  night:
    image: web
    x-gantry: {schedule: "0 3 * * *"}
`)
	if err != nil {
		t.Fatal(err)
	}
	data, err := Encode(p)
	if err != nil {
		t.Fatal(err)
	}
	if p, err = Decode(data); err != nil { // it travels
		t.Fatal(err)
	}
	if g, err := Gantry(p); err != nil || g.Publish != "loopback" {
		t.Errorf("%+v, %v", g, err)
	}
	g, err := GantryOf(p.Services["web"])
	if err != nil {
		t.Fatal(err)
	}
	want := ServiceGantry{Sticky: "source", OnUnhealthy: "restart",
		Autoscale: &Autoscale{Min: 2, Max: 8, CPU: 70, Stabilization: time.Minute},
		Probe:     &Probe{HTTP: "8080/health", Interval: 2 * time.Second}}
	if !reflect.DeepEqual(g, want) {
		t.Errorf("read %+v", g)
	}
	if g, err := GantryOf(p.Services["night"]); err != nil || g.Schedule != "0 3 * * *" {
		t.Errorf("%+v, %v", g, err)
	}
}

func TestGantryExtensionRefused(t *testing.T) {
	for says, want := range map[string]string{
		"x-gantry: {stiky: source}":                                          "compose.yaml:4: services.web.x-gantry.stiky: unknown key stiky; did you mean sticky?",
		"x-gantry: {sticky: cookie}":                                         `services.web.x-gantry.sticky: "cookie" is not supported; write source`,
		"x-gantry: {autoscale: {max: 3}}":                                    "services.web.x-gantry.autoscale: neither cpu nor memory says what to aim at",
		"x-gantry: {autoscale: {min: 4, max: 3, cpu: 5%}}":                   "max 3 is less than min 4",
		"x-gantry: {autoscale: {max: 3, cpu: much}}":                         "services.web.x-gantry.autoscale.cpu: much is no percentage",
		"x-gantry: {healthcheck: {}}":                                        "must have either tcp or http",
		"x-gantry: {healthcheck: {tcp: 0}}":                                  "0 is no port",
		"x-gantry: {healthcheck: {tcp: 65536}}":                              "65536 is no port",
		"x-gantry: {healthcheck: {http: health}}":                            `"health" is no port and path; write it as 8080/health`,
		"x-gantry: {healthcheck: {http: 8080/%zz}}":                          `"8080/%zz" is no port and path`,
		"x-gantry: {healthcheck: {tcp: 1, interval: fast}}":                  "fast is no duration",
		"x-gantry: {autoscale: {min: 0, max: 3, cpu: 5%}}":                   "services.web.x-gantry.autoscale.min: 0 is no whole number from 1",
		"x-gantry: {autoscale: {max: 3, memory: 50%}}":                       "memory is aimed at in hundredths of a limit, and there is none",
		"container_name: one\n    x-gantry: {autoscale: {max: 3, cpu: 5%}}":  `3 replicas cannot share the name "one"`,
		"x-gantry: {schedule: 5}":                                            `compose.yaml:4: services.web.x-gantry.schedule: "5" is no schedule`,
		`x-gantry: {schedule: "0 25 * * *"}`:                                 `"0 25 * * *" is no schedule: end of range (25) above maximum (23)`,
		"restart: always\n    x-gantry: {schedule: '@daily'}":                "services.web.x-gantry.schedule: restart: always starts again what has ended",
		"deploy: {restart_policy: {}}\n    x-gantry: {schedule: '@daily'}":   "deploy.restart_policy restarts what has ended",
		"scale: 2\n    x-gantry: {schedule: '@daily'}":                       "a run is one container, and 2 replicas are asked for",
		"x-gantry: {schedule: '@daily', autoscale: {max: 3, cpu: 5%}}":       "keep schedule or autoscale",
		"x-gantry: {schedule: '@daily'}\n  a: {image: a, depends_on: [web]}": "compose.yaml:5: services.a.depends_on.web: web is run by its schedule",
		"x-gantry: [a]": "must be an object",
		"healthcheck: {test: a}\n    x-gantry: {healthcheck: {tcp: 5}}": "the service has a healthcheck as well",
	} {
		_, err := load(t, "services:\n  web:\n    image: web\n    "+says+"\n")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", says, err, want)
		}
	}
}

func TestPortsAreLoopbackOnlyWhereTheProjectSaysSo(t *testing.T) {
	const services = `
services:
  web:
    image: web
    ports: ["8080:80", "10.0.0.1:8081:81", "82"]
`
	for says, want := range map[string]string{
		"":                                "[ 10.0.0.1 ]",
		"x-gantry: {publish: all}\n":      "[ 10.0.0.1 ]",
		"x-gantry: {publish: loopback}\n": "[127.0.0.1 10.0.0.1 127.0.0.1]",
	} {
		p, err := load(t, says+services)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, port := range p.Services["web"].Ports {
			got = append(got, port.HostIP)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%q: %q, want %s", says, got, want)
		}
	}
}
