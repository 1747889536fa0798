package compose

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestUnsupported(t *testing.T) {
	for _, c := range []struct{ service, rest, want string }{
		{service: "gpus: all", want: "compose.yaml:5: services.a.gpus: GPUs are not supported yet; remove it"},
		{service: "runtime: kata", want: `compose.yaml:5: services.a.runtime: runtime "kata" is not supported yet, gantry has its own; remove it`},
		{service: "platform: linux/s390x", want: "services.a.platform: linux/s390x does not run here"},
		{service: "provider: {type: x}", want: "services.a.provider: providers are"},
		{service: "storage_opt: {size: 1g}", want: "services.a.storage_opt:"},
		{service: "use_api_socket: true", want: "services.a.use_api_socket:"},
		{service: "credential_spec: {file: x}", want: "services.a.credential_spec: credential specs exist on Windows alone"},
		{service: "isolation: hyperv", want: `services.a.isolation: isolation "hyperv"`},
		{service: "devices: ['vendor.com/gpu=all']", want: "services.a.devices: device \"vendor.com/gpu=all\" is no path"},
		{service: "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}", want: "services.a.deploy.resources.reservations.devices:"},
		{service: "pid: other", want: `services.a.pid: pid "other" is not supported yet (only host, service:, container:)`},
		{service: "ipc: other", want: "services.a.ipc:"},
		{service: "uts: 'service:b'", want: "services.a.uts:"},
		{service: "userns_mode: private", want: "services.a.userns_mode:"},
		{service: "network_mode: mynet", want: "services.a.network_mode:"},
		{service: "external_links: [x]", want: "services.a.external_links:"},
		{service: "networks: {default: {link_local_ips: [1.2.3.4]}}", want: "services.a.networks.default.link_local_ips:"},
		{service: "networks: {default: {driver_opts: {a: b}}}", want: "services.a.networks.default.driver_opts.a:"},
		{service: "ports: ['80:80/sctp']", want: `services.a.ports: protocol "sctp"`},
		{service: "volumes_from: [b]", want: "services.a.volumes_from:"},
		{service: "volumes: [{type: npipe, source: x, target: /x}]", want: `compose.yaml:5: services.a.volumes.x: volumes of type "npipe"`},
		{service: "secrets: [{source: s, uid: me}]", rest: "secrets: {s: {environment: PASS}}", want: `services.a.secrets.s: owner "me" is no number`},
		{service: "security_opt: ['systempaths=secret']", want: `services.a.security_opt: security option "systempaths=secret"`},
		{service: "post_start: [{command: x}]", want: "services.a.post_start: hooks are"},
		{service: "pre_stop: [{command: x}]", want: "services.a.pre_stop: hooks are"},
		{service: "pre_start: [{command: x}]", want: "services.a.pre_start: hooks are"},
		{service: "pull_policy: refresh", want: "services.a.pull_policy: pull policy \"refresh\" needs the time"},
		{service: "pull_policy: always\n    pull_refresh_after: 1h", want: "pull_refresh_after needs pull_policy: refresh"},
		{service: "restart: sometimes", want: `services.a.restart: "sometimes" is no restart policy`},
		{service: "restart: 'always:3'", want: "services.a.restart:"},
		{service: "deploy: {restart_policy: {condition: maybe}}", want: "services.a.deploy.restart_policy.condition:"},
		{service: "logging: {driver: syslog}", want: `services.a.logging.driver: log driver "syslog"`},
		{service: "logging: {options: {tag: x}}", want: "services.a.logging.options.tag:"},
		{service: "models: [m]", rest: "models: {m: {model: x}}", want: "compose.yaml:6: models.m: models are not supported yet"},
		{service: "networks: [n]", rest: "networks: {n: {driver: overlay}}", want: `compose.yaml:6: networks.n.driver: network driver "overlay"`},
		{service: "networks: [n]", rest: "networks: {n: {enable_ipv4: false}}", want: "networks.n.enable_ipv4:"},
		{service: "networks: [n]", rest: "networks: {n: {ipam: {driver: dhcp}}}", want: "networks.n.ipam.driver:"},
		{service: "volumes: ['data:/v']", rest: "volumes: {data: {driver: rexray}}", want: `volumes.data.driver: volume driver "rexray"`},
		{service: "volumes: ['data:/v']", rest: "volumes: {data: {driver_opts: {size: 1g}}}", want: "volumes.data.driver_opts.size:"},
		{service: "secrets: [s]", rest: "secrets: {s: {external: true}}", want: "secrets.s.external: nothing outside the project keeps secrets yet"},
		{service: "configs: [s]", rest: "configs: {s: {external: true}}", want: "configs.s.external:"},
	} {
		t.Run(c.service+" "+c.rest, func(t *testing.T) {
			p := mustLoad(t, "services:\n  b: {image: b}\n  a:\n    image: a\n    "+c.service+"\n"+c.rest+"\n", environ("PASS=x"))
			errs := Unsupported(p)
			found := false
			for _, err := range errs {
				found = found || strings.Contains(err.Error(), c.want)
				if !errdefs.IsNotImplemented(err) || strings.Contains(err.Error(), "\n") || !strings.HasPrefix(err.Error(), "compose.yaml:") {
					t.Errorf("%v", err)
				}
			}
			if !found {
				t.Errorf("want %q, got %v", c.want, errs)
			}
		})
	}
}

// TestSupported: what the embedded runtime honours is not refused.
func TestSupported(t *testing.T) {
	p := mustLoad(t, `services:
  a:
    image: a
    build: .
    cap_add: [NET_ADMIN]
    cgroup: host
    cgroup_parent: /x
    cpu_shares: 5
    depends_on: {b: {condition: service_healthy}}
    deploy: {replicas: 2, resources: {limits: {memory: 1g}, reservations: {memory: 1m}}, restart_policy: {condition: any, max_attempts: 3}}
    develop: {watch: [{path: ., action: rebuild}]}
    device_cgroup_rules: ["c 1:3 rwm"]
    devices: [/dev/null]
    healthcheck: {test: x, start_interval: 1s}
    links: [b, "b:base"]
    logging: {driver: json-file, options: {max-size: 1m, max-file: "3"}}
    mac_address: 02:42:ac:11:00:01
    networks: {default: {aliases: [x], ipv4_address: 10.9.9.9, ipv6_address: 'fd00::9', priority: 3, driver_opts: {com.docker.network.endpoint.ifname: eth7}}}
    pid: "service:b"
    ports: ["80", "127.0.0.1:53:53/udp"]
    pull_policy: if_not_present
    restart: on-failure:3
    runtime: runc
    security_opt: [no-new-privileges, seccomp=unconfined, "apparmor:x", "label:disable", systempaths=unconfined, writable-cgroups=true]
    userns_mode: host
    volumes: [/anon, "./x:/x:z", "data:/v:nocopy", {type: tmpfs, target: /t}, {type: image, source: b, target: /i, image: {subpath: x}}, {type: bind, source: /x, target: /y, bind: {recursive: readonly}}]
  b: {image: b, logging: {driver: local}, networks: [lan]}
networks: {default: {driver: bridge, enable_ipv6: true, ipam: {config: [{subnet: 10.9.9.0/24}, {subnet: 'fd00::/64'}]}}, lan: {driver: macvlan, driver_opts: {parent: eth0}}}
volumes: {data: {driver: local, driver_opts: {type: tmpfs, o: size=1m, device: tmpfs}}}
`)
	for _, err := range Unsupported(p) {
		t.Error(err)
	}
	if notes := Notes(p); len(notes) > 0 {
		t.Error(notes)
	}
}

func TestNotes(t *testing.T) {
	p := mustLoad(t, `services:
  a:
    image: a
    deploy: {mode: global, labels: {a: b}, placement: {constraints: [a]}, restart_policy: {delay: 1s}, update_config: {order: start-first}}
    ports: [{target: 80, mode: host}]
    volumes: [{type: bind, source: /x, target: /x, volume: {nocopy: true}}]
`)
	var keys []string
	for _, n := range Notes(p) {
		key, _, _ := strings.Cut(n, ": ")
		keys = append(keys, strings.TrimPrefix(strings.TrimPrefix(key, "services.a."), "deploy."))
	}
	if diff := cmp.Diff([]string{"volumes./x.volume", "ports.80.mode", "mode", "labels", "placement"}, keys); diff != "" {
		t.Error(diff)
	}
}
