package docker

import (
	"slices"
	"strings"
	"testing"
)

func TestNetworks(t *testing.T) {
	t.Parallel()
	net := name(t)
	remove(t, "network", "rm", net)
	if id := docker(t, "network", "create", "--subnet", "10.213.7.0/24", "--gateway", "10.213.7.1", "--label", "who="+net, "-o", "com.docker.network.driver.mtu=1400", net); len(id) != 64 {
		t.Errorf("id %q", id)
	}
	says(t, "bridge local 10.213.7.0/24 10.213.7.1", "network", "inspect", "-f", "{{.Driver}} {{.Scope}} {{(index .IPAM.Config 0).Subnet}} {{(index .IPAM.Config 0).Gateway}}", net)
	says(t, net, "network", "ls", "--filter", "label=who="+net, "--format", "{{.Name}}")
	shows(t, []string{"network", "ls"}, "NETWORK ID", "bridge", "host", "none", net)
	got := strings.Split(docker(t, "network", "ls", "--filter", "type=builtin", "--format", "{{.Name}}"), "\n")
	slices.Sort(got)
	if !slices.Equal(got, []string{"bridge", "host", "none"}) {
		t.Errorf("built in: %v", got)
	}
	a := idle(t, "--network", net, "--network-alias", "other", "--ip", "10.213.7.9")
	says(t, "10.213.7.9", "inspect", "-f", "{{(index .NetworkSettings.Networks \""+net+"\").IPAddress}}", a)
	b := idle(t)
	fails(t, 1, []string{"exec", b, "ping", "-c1", "-W1", a}, "")
	docker(t, "network", "connect", "--alias", "late", net, b)
	shows(t, []string{"exec", b, "ping", "-c1", "-W2", "other"}, "10.213.7.9")
	shows(t, []string{"exec", a, "ping", "-c1", "-W2", "late"}, "1 packets received")
	shows(t, []string{"exec", a, "ping", "-c1", "-W2", b}, "1 packets received")
	shows(t, []string{"network", "inspect", "-f", "{{range .Containers}}{{.Name}} {{.IPv4Address}},{{end}}", net}, a+" 10.213.7.9/24,", b+" ")
	fails(t, 1, []string{"network", "connect", net, b}, "already exists")
	fails(t, 1, []string{"network", "rm", net}, "active endpoints")
	docker(t, "network", "disconnect", net, b)
	fails(t, 1, []string{"exec", b, "ping", "-c1", "-W1", "other"}, "")
	fails(t, 1, []string{"network", "disconnect", net, b}, "is not connected")
	says(t, "lo", "run", "--rm", "--network", "none", "busybox", "ls", "/sys/class/net")
	says(t, docker(t, "exec", a, "hostname"), "run", "--rm", "--network", "container:"+a, "busybox", "hostname")
	fails(t, 125, []string{"run", "--rm", "--network", "nosuch", "busybox"}, "nosuch")
	docker(t, "stop", a)
	docker(t, "rm", a)
	says(t, net, "network", "rm", net)
	fails(t, 1, []string{"network", "inspect", net}, "no such network")
	fails(t, 1, []string{"network", "rm", "bridge"}, "pre-defined")

	inside := name(t)
	docker(t, "network", "create", "--internal", inside)
	remove(t, "network", "rm", inside)
	says(t, "true", "network", "inspect", "-f", "{{.Internal}}", inside)
	fails(t, 1, []string{"network", "create", inside}, "already exists")
	fails(t, 1, []string{"run", "--rm", "--network", inside, "busybox", "ping", "-c1", "-W1", "192.0.2.1"}, "")
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	v := name(t)
	remove(t, "volume", "rm", "-f", v)
	says(t, v, "volume", "create", "--label", "who="+v, v)
	says(t, v, "volume", "create", v) // once more is no error
	says(t, "local local "+v, "volume", "inspect", "-f", "{{.Driver}} {{.Scope}} {{.Labels.who}}", v)
	says(t, v, "volume", "ls", "-q", "--filter", "label=who="+v)
	says(t, v, "volume", "ls", "-q", "--filter", "name="+v, "--filter", "dangling=true")
	n := idle(t, "-v", v+":/data", "-v", "/anonymous")
	docker(t, "exec", n, "sh", "-c", "echo words >/data/file; echo more >/anonymous/file")
	says(t, "", "volume", "ls", "-q", "--filter", "name="+v, "--filter", "dangling=true")
	says(t, n, "ps", "--filter", "volume="+v, "--format", "{{.Names}}")
	fails(t, 1, []string{"volume", "rm", v}, "in use")
	says(t, "words\nmore", "run", "--rm", "--volumes-from", n, "busybox", "cat", "/data/file", "/anonymous/file")
	docker(t, "rm", "-fv", n)
	says(t, "words", "run", "--rm", "-v", v+":/d:ro", "busybox", "cat", "/d/file")
	says(t, v, "volume", "rm", v)
	fails(t, 1, []string{"volume", "inspect", v}, "No such volume: "+v)
	fails(t, 1, []string{"volume", "create", "no/good"}, "volume name")
	anonymous := docker(t, "volume", "create")
	remove(t, "volume", "rm", anonymous)
	if len(anonymous) != 64 {
		t.Errorf("anonymous: %q", anonymous)
	}
}
