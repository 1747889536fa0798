package tests

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// What compose files say of networks and mounts reaches the containers.
func TestComposeAttributes(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	// A parent for the macvlan, whose other end nobody holds.
	parent := "gtm" + m.tag
	command(t, "ip", "link", "add", parent, "type", "veth", "peer", "name", parent+"p")
	t.Cleanup(func() { exec.Command("ip", "link", "del", parent).Run() })
	command(t, "ip", "link", "set", parent, "up")
	dir := m.project("attributes", `
services:
  fill:
    image: busybox
    command: mkdir -p /v/sub
    volumes: ["data:/v"]
  web:
    image: busybox
    command: sleep 1000
    depends_on: {fill: {condition: service_completed_successfully}}
    networks:
      six: {ipv6_address: "fd00:241::77", ipv4_address: 10.241.0.77, aliases: [nick]}
      auto: {gw_priority: 5, driver_opts: {com.docker.network.endpoint.ifname: second}}
    volumes:
      - {type: volume, source: data, target: /sub, volume: {subpath: sub}}
      - {type: image, source: busybox, target: /image, image: {subpath: bin}}
      - {type: bind, source: ., target: /here, read_only: true, bind: {recursive: readonly}}
    logging: {driver: local}
    security_opt: [systempaths=unconfined]
  other:
    image: busybox
    command: sleep 1000
    networks: [six]
  box:
    image: busybox
    command: sleep 1000
    networks: {lan: {ipv4_address: 10.242.0.9}}
networks:
  six:
    enable_ipv6: true
    driver_opts: {com.docker.network.bridge.name: br-`+m.tag+`}
    ipam: {config: [{subnet: 10.241.0.0/24}, {subnet: "fd00:241::/64", gateway: "fd00:241::5"}]}
  auto: {enable_ipv6: true}
  lan:
    driver: macvlan
    driver_opts: {parent: `+parent+`, macvlan_mode: private}
    ipam: {config: [{subnet: 10.242.0.0/24}]}
volumes: {data: }
`)
	m.okIn(dir, "up", "-d")
	inside := func(service, script, want string) {
		t.Helper()
		got := strings.TrimSpace(m.okIn(dir, "exec", "-T", service, "sh", "-c", script))
		if !regexp.MustCompile(`(?s)^(` + want + `)$`).MatchString(got) {
			t.Errorf("%s: %s gives %q, want %q", service, script, got, want)
		}
	}
	inside("web", "ip -6 -o addr show scope global | awk '{print $2, $4}' | sort", `eth\d fd00:241::77/64\nsecond fd[0-9a-f:]+/64`)
	inside("web", "ip -6 route | awk '/^default/ {print $5}'; ip route | awk '/^default/ {print $5}'", "second\nsecond")
	inside("web", "touch /sub/x && ls -d /image/sh; touch /here/x 2>&1 | grep -o Read-only; ls /proc/sys/kernel/hostname; mount | grep -c ' /proc/sys ' || true", "/image/sh\nRead-only\n/proc/sys/kernel/hostname\n0")
	inside("other", "ip -6 route | awk '/^default/ {print $3}'; nslookup -type=aaaa nick 127.0.0.11 | grep -o fd00:241::77; ping -6 -c1 -w5 nick >/dev/null && echo reached", "fd00:241::5\nfd00:241::77\nreached")
	inside("box", "ip -o -4 addr show eth0 | awk '{print $4}'", "10.242.0.9/24")
	if out := m.okIn(dir, "plan"); !strings.Contains(out, "nothing") && strings.TrimSpace(out) != "" && !strings.Contains(out, "up to date") {
		t.Errorf("a second plan changes something:\n%s", out)
	}
	m.okIn(dir, "down", "-v", "-t", "1")
}
