package compose

import "testing"

// TestHash: what a container is made of counts, what steers gantry does not.
func TestHash(t *testing.T) {
	const base = "services: {db: {image: d}, a: {image: a, environment: {A: b}, secrets: [s], %}}\nsecrets: {s: {environment: S}}\nconfigs: {c: {content: x}}\n"
	hash := func(extra, secret string) (string, string) {
		text := ""
		for i := range base {
			if base[i] == '%' {
				text = base[:i] + extra + base[i+1:]
			}
		}
		p := mustLoad(t, text, environ("S="+secret))
		return Hash(p.Services["a"]), HashIn(p, p.Services["a"])
	}
	h, full := hash("", "one")
	if h2, full2 := hash("", "one"); h2 != h || full2 != full {
		t.Error("not stable")
	}
	if h2, full2 := hash("", "two"); h2 != h || full2 == full {
		t.Error("HashIn must see the content of a secret, Hash must not")
	}
	for _, extra := range []string{"scale: 3", "deploy: {replicas: 3}", "depends_on: [db]", "profiles: []", "pull_policy: never", "build: .", "attach: false",
		"deploy: {update_config: {order: start-first}}", "develop: {watch: []}"} {
		// `deploy: {}` alone is a part, if an empty one; compare with it.
		want := h
		if len(extra) > 6 && extra[:6] == "deploy" {
			want, _ = hash("deploy: {}", "one")
		}
		if got, _ := hash(extra, "one"); got != want {
			t.Errorf("%s changes the hash", extra)
		}
	}
	for _, extra := range []string{"command: x", "command: []", "entrypoint: []", "labels: {a: b}", "ports: [80]", "restart: always", "configs: [c]",
		"healthcheck: {disable: true}", "tty: true", "container_name: xx", "deploy: {resources: {limits: {memory: 1g}}}", "volumes: ['/x']", "network_mode: none"} {
		if got, _ := hash(extra, "one"); got == h {
			t.Errorf("%s does not change the hash", extra)
		}
	}
	p := mustLoad(t, "services: {a: {image: a, networks: [n], volumes: ['v:/v', 'w:/w']}}\nnetworks: {n: {internal: true}}\nvolumes: {v: {}, w: {driver: local}}\n")
	if HashNetwork(p.Networks["n"]) == HashNetwork(Network{Name: p.Networks["n"].Name}) {
		t.Error("a network's internal does not count")
	}
	v, w := p.Volumes["v"], p.Volumes["w"]
	if w.Name = v.Name; HashVolume(v) != HashVolume(w) {
		t.Error("the default driver is another than none")
	}
}
