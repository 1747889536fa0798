package tests

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// sight is a service and what its processes must see: a shell command and a
// pattern for its whole output, in pairs.
type sight struct {
	name, yaml string
	sees       []string
}

// cgroupFile reads a file of the container's own cgroup, whichever version of
// cgroups its controller is on.
func cgroupFile(v1, v2 string) string {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return "cat /sys/fs/cgroup/" + v2
	}
	return "cat /sys/fs/cgroup/" + v1
}

// status is a line of the status of the process that asks.
func status(name string) string { return "grep ^" + name + ": /proc/self/status | tr -d '\\t'" }

var sights = []sight{
	{"command", "command: [sleep, '1001']", []string{
		"tr '\\0' ' ' </proc/1/cmdline", "sleep 1001 ",
		"cat /proc/1/comm", "sleep",
		"id", `uid=0\(root\) gid=0\(root\)( groups=.*)?`,
		"pwd", "/",
		"echo $PATH", "/usr/local/sbin:.*/bin.*",
		"hostname", "[0-9a-f]{12}",
		"cat /etc/hostname", "[0-9a-f]{12}",
		"grep -c . /etc/resolv.conf", "[1-9]",
		"grep nameserver /etc/resolv.conf", "nameserver 127.0.0.11",
		"ls /proc/sys/kernel/keys 2>&1 >/dev/null; mount | grep -c ' /proc/.*ro'", "[4-9]|1[0-9]",
		"(echo x >/proc/sys/kernel/hostname)", ".*(Read-only file system|nonexistent directory).*",
		"cat /proc/kcore | wc -c", "0",
		status("Seccomp"), "Seccomp:2",
		status("NoNewPrivs"), "NoNewPrivs:0",
		status("CapEff"), "CapEff:00000000a80425fb",
		status("CapBnd"), "CapBnd:00000000a80425fb",
		"ls /dev | tr '\\n' ' '", ".*\\bfull\\b.*\\bnull\\b.*\\bptmx\\b.*\\bpts\\b.*\\bshm\\b.*\\bstdin\\b.*\\bzero\\b.*",
		"ps -o pid= | head -1 | tr -d ' '", "1",
		"df -k /dev/shm | tail -1 | awk '{print $2}'", "65536",
		"ulimit -n", "1024",
		"ls /.dockerenv /run/secrets 2>&1 | grep -c nosuch", "0",
		"env | grep -c ^HOME=/root$", "1",
		"touch /anywhere && echo written", "written",
	}},
	{"entrypoint", "entrypoint: [sh, -c, 'echo \"$$0 $$*\"; exec sleep 1000']\n    command: [zero, one, two words]", []string{
		"tr '\\0' ' ' </proc/1/cmdline", "sleep 1000 ",
	}},
	{"environment", `environment: {PLAIN: value, SPACES: "a  b 'c'", EMPTY: "", FROM_HOST: , TAKEN: service}
    env_file: [one.env]`, []string{
		"echo $PLAIN", "value",
		"echo \"$SPACES\"", "a  b 'c'",
		"echo ${EMPTY-unset}.", `\.`,
		"echo $FROM_HOST", "here",
		"echo $TAKEN", "service",
		"echo $ONLY_FILE", "file with spaces",
		"echo $HASH", "a#b",
	}},
	{"workdir", "working_dir: /made/for/me", []string{"pwd", "/made/for/me"}},
	{"user", "user: nobody\n    group_add: [daemon, '4242']", []string{
		"id", `uid=65534\(nobody\) gid=65534\(nogroup\) groups=1\(daemon\),4242,65534\(nogroup\)`,
		status("CapEff"), "CapEff:0000000000000000",
		"echo $HOME", "/home",
		"touch /x 2>&1", ".*Permission denied",
		"cat /proc/1/status | grep ^Uid | tr '\\t' ' '", "Uid: 65534 65534 65534 65534",
	}},
	{"numbers", "user: '1234:5678'", []string{"id", `uid=1234 gid=5678( groups=5678)?`}},
	{"names", "hostname: alpha\n    domainname: example.org\n    container_name: a-name-of-its-own", []string{
		"hostname", "alpha",
		"cat /proc/sys/kernel/domainname", "example.org",
		"grep -c 'alpha.example.org alpha' /etc/hosts", "1",
		"hostname -f", "alpha.example.org",
	}},
	{"init", "init: true\n    command: [sh, -c, '(sleep 0.05 &); exec sleep 1000']", []string{
		"tr '\\0' ' ' </proc/1/cmdline", "/sbin/docker-init -- sh .*|/sbin/docker-init .*",
		"sleep 0.2; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l", "0",
		"ps -o comm | grep -c ^sleep", "[1-9]",
	}},
	{"readonly", "read_only: true\n    tmpfs: [/run, '/scratch:size=1m,mode=1777']", []string{
		"touch /x 2>&1", ".*Read-only file system",
		"touch /run/x /scratch/y && ls /run /scratch | tr '\\n' ' '", ".*x.*y.*",
		"df -k /scratch | tail -1 | awk '{print $2}'", "1024",
		"stat -c %a /scratch", "1777",
		"touch /dev/shm/x && echo yes", "yes",
		"dd if=/dev/zero of=/scratch/z bs=1k count=2000 2>&1 | grep -c 'No space'", "1",
	}},
	{"shm", "shm_size: 8m", []string{"df -k /dev/shm | tail -1 | awk '{print $2}'", "8192"}},
	{"caps", "cap_drop: [ALL]\n    cap_add: [NET_BIND_SERVICE, CAP_CHOWN]", []string{
		status("CapEff"), "CapEff:0000000000000401",
		status("CapBnd"), "CapBnd:0000000000000401",
		"chown 1 /etc/passwd && echo can", "can",
		"kill -0 1 && mknod /x c 1 3 2>&1", ".*Operation not permitted",
	}},
	{"privileged", "privileged: true", []string{
		status("Seccomp"), "Seccomp:0",
		"test -e /dev/kmsg && echo yes", "yes",
		"mkdir -p /m && mount -t tmpfs none /m && echo mounted", "mounted",
		"mount | grep ' /sys ' | grep -c '(rw'", "1",
	}},
	{"locked", "security_opt: ['no-new-privileges:true', 'seccomp=unconfined']", []string{
		status("NoNewPrivs"), "NoNewPrivs:1",
		status("Seccomp"), "Seccomp:0",
	}},
	{"profile", "security_opt: ['seccomp:./no-mkdir.json']", []string{
		"mkdir /y 2>&1", ".*Operation not permitted",
		"touch /y && echo fine", "fine",
		status("Seccomp"), "Seccomp:2",
	}},
	{"sysctls", "sysctls: {net.ipv4.ip_forward: 0, net.core.somaxconn: 333, kernel.msgmax: 4096}", []string{
		"cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax | tr '\\n' ' '", "333 4096 ",
		"cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0",
	}},
	{"ulimits", "ulimits: {nofile: {soft: 300, hard: 400}, core: 0, nproc: 500}", []string{
		"ulimit -n; ulimit -Hn; ulimit -c; ulimit -u", "300 400 0 500",
	}},
	{"pidhost", "pid: host", []string{"test $(ls -d /proc/[0-9]* | wc -l) -gt 10 && readlink /proc/self/ns/pid", hostNS("pid")}},
	{"pidother", "pid: service:command", []string{"tr '\\0' ' ' </proc/1/cmdline", "sleep 1001 "}},
	{"ipchost", "ipc: host", []string{"readlink /proc/self/ns/ipc", hostNS("ipc")}},
	{"ipcshared", "ipc: shareable\n    command: [sh, -c, 'echo told >/dev/shm/word; exec sleep 1000']", []string{"cat /dev/shm/word", "told"}},
	{"ipcother", "ipc: service:ipcshared\n    depends_on: [ipcshared]", []string{"sleep 0.2; cat /dev/shm/word", "told"}},
	{"utshost", "uts: host", []string{"readlink /proc/self/ns/uts", hostNS("uts"), "hostname", ".+"}},
	{"memory", "mem_limit: 64m\n    memswap_limit: 96m\n    mem_reservation: 32m\n    pids_limit: 77", []string{
		cgroupFile("memory/memory.limit_in_bytes", "memory.max"), "67108864",
		cgroupFile("pids/pids.max", "pids.max"), "77",
	}},
	{"cpu", "cpus: 0.5\n    cpu_shares: 512\n    cpuset: '0'", []string{
		cgroupFile("cpuset/cpuset.cpus", "cpuset.cpus"), "0",
		"grep ^Cpus_allowed_list /proc/self/status | tr -d '\\t'", "Cpus_allowed_list:0",
		"nproc", "1",
	}},
	{"quota", "cpu_quota: 25000\n    cpu_period: 50000", nil},
	{"deploy", "deploy: {resources: {limits: {cpus: '0.25', memory: 48M, pids: 55}, reservations: {memory: 16M}}}", []string{
		cgroupFile("memory/memory.limit_in_bytes", "memory.max"), "50331648",
		cgroupFile("pids/pids.max", "pids.max"), "55",
	}},
	{"secrets", `secrets:
      - fromfile
      - {source: fromenv, target: renamed, uid: "65534", gid: "1", mode: 0440}
    configs:
      - source: text
        target: /etc/app.conf
        mode: 0400
      - fromenv`, []string{
		"cat /run/secrets/fromfile", "a secret",
		"stat -c '%u:%g %a' /run/secrets/fromfile", "0:0 444",
		"cat /run/secrets/renamed", "of the environment",
		"stat -c '%u:%g %a' /run/secrets/renamed", "65534:1 440",
		"stat -f -c %T /run/secrets/renamed /etc/app.conf /fromenv | sort -u", "tmpfs",
		"cat /etc/app.conf", "name = here",
		"stat -c '%u:%g %a' /etc/app.conf", "0:0 400",
		"cat /fromenv", "of the environment",
		"(echo x >/etc/app.conf) 2>&1; (echo x >/run/secrets/fromfile)", ".*Read-only file system.*Read-only file system.*",
	}},
	{"hosts", "extra_hosts: ['db.example:192.0.2.7', 'v6.example=2001:db8::7', 'host.docker.internal:host-gateway']", []string{
		"grep db.example /etc/hosts | tr '\\t' ' '", "192.0.2.7 db.example",
		"grep v6.example /etc/hosts | tr '\\t' ' '", "2001:db8::7 v6.example",
		"ping -c1 -W2 host.docker.internal >/dev/null && echo reached", "reached",
	}},
	{"dns", "dns: [192.0.2.53]\n    dns_search: [one.example, two.example]\n    dns_opt: [ndots:3, timeout:1]", []string{
		"cat /etc/resolv.conf", "nameserver 127.0.0.11 search one.example two.example options ndots:3 timeout:1",
		"nslookup -type=a command. 2>&1 | grep -c 'Address.*: *[0-9]'", "[12]",
	}},
	{"tty", "tty: true\n    stdin_open: true\n    command: sh", []string{
		"readlink /proc/1/fd/0", "/dev/pts/0|/dev/console",
		"readlink /proc/1/fd/1", "/dev/pts/0|/dev/console",
	}},
	{"logless", "logging: {driver: none}\n    command: [sh, -c, 'echo unseen; exec sleep 1000']", nil},
	{"labels", "labels: {org.example.one: '1', org.example.two: two words}\n    annotations: {note: here}\n    expose: ['8080', '53/udp']\n    stop_signal: SIGUSR1\n    stop_grace_period: 7s\n    restart: on-failure:4", nil},
	{"platform", "platform: linux/" + runtime.GOARCH + "\n    pull_policy: never", []string{"echo up", "up"}},
	{"scaled", "scale: 2", nil},
	{"replicated", "deploy: {replicas: 3}", nil},
	{"hidden", "profiles: [debug]", nil},
}

// hostNS is a namespace of the machine's, as readlink shows it.
func hostNS(kind string) string {
	link, _ := os.Readlink("/proc/self/ns/" + kind)
	return regexp.QuoteMeta(link)
}

// seccomp refuses one call.
const noMkdir = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":1}]}`

// Everything a compose file says of a service is what its processes see.
func TestServices(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.env = append(m.env, "FROM_HOST=here", "SECRET_WORD=of the environment")
	var yaml strings.Builder
	yaml.WriteString("services:\n")
	for _, s := range sights {
		fmt.Fprintf(&yaml, "  %s:\n    image: busybox\n    %s\n", s.name, s.yaml)
		if !strings.Contains(s.yaml, "command:") {
			yaml.WriteString("    command: [sleep, '1000']\n")
		}
		if !strings.Contains(s.yaml, "stop_signal") {
			yaml.WriteString("    stop_signal: SIGKILL\n")
		}
	}
	yaml.WriteString(`
secrets:
  fromfile: {file: ./secret.txt}
  fromenv: {environment: SECRET_WORD}
configs:
  text: {content: "name = ${FROM_HOST}"}
  fromenv: {environment: SECRET_WORD}
`)
	dir := m.project("services", yaml.String(), "one.env", "# a comment\nONLY_FILE=\"file with spaces\"\nTAKEN=file\nHASH='a#b'\n",
		"secret.txt", "a secret", "no-mkdir.json", noMkdir)
	m.okIn(dir, "up", "-d")

	t.Run("sees", func(t *testing.T) {
		for _, s := range sights {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				m := m.with(t)
				for i := 0; i+1 < len(s.sees); i += 2 {
					r := m.in(dir, "exec", "-T", s.name, "sh", "-c", s.sees[i]+" 2>&1")
					got := strings.Join(strings.FieldsFunc(r.out, func(r rune) bool { return r == '\n' }), " ")
					if !regexp.MustCompile("^(?:" + s.sees[i+1] + ")$").MatchString(got) {
						t.Errorf("%s\n got %q (%s)\nwant %s", s.sees[i], got, strings.TrimSpace(r.err), s.sees[i+1])
					}
				}
			})
		}
	})
	t.Run("is said", func(t *testing.T) {
		m := m.with(t)
		for _, c := range []struct{ service, format, want string }{
			{"memory", "{{.HostConfig.Memory}} {{.HostConfig.MemorySwap}} {{.HostConfig.MemoryReservation}} {{.HostConfig.PidsLimit}}", "67108864 100663296 33554432 77"},
			{"cpu", "{{.HostConfig.NanoCpus}} {{.HostConfig.CpuShares}} {{.HostConfig.CpusetCpus}}", "500000000 512 0"},
			{"quota", "{{.HostConfig.CpuQuota}} {{.HostConfig.CpuPeriod}}", "25000 50000"},
			{"deploy", "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}}", "250000000 50331648"},
			{"labels", `{{index .Config.Labels "org.example.two"}} {{.Config.StopSignal}} {{.Config.StopTimeout}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}`, "two words SIGUSR1 7 on-failure 4"},
			{"labels", `{{index .Config.Labels "com.docker.compose.project"}}/{{index .Config.Labels "com.docker.compose.service"}}/{{index .Config.Labels "com.docker.compose.container-number"}}`, "services/labels/1"},
			{"labels", "{{json .Config.ExposedPorts}}", `{"53/udp":{},"8080/tcp":{}}`},
			{"logless", "{{.HostConfig.LogConfig.Type}}", "none"},
			{"privileged", "{{.HostConfig.Privileged}}", "true"},
			{"user", "{{.Config.User}} {{.HostConfig.GroupAdd}}", "nobody [daemon 4242]"},
			{"readonly", "{{.HostConfig.ReadonlyRootfs}}", "true"},
			{"tty", "{{.Config.Tty}} {{.Config.OpenStdin}}", "true true"},
		} {
			id := strings.Fields(m.okIn(dir, "ps", "-q", c.service))[0]
			if got := strings.TrimSpace(m.ok("container", "inspect", id, "--format", c.format)); got != c.want {
				t.Errorf("%s: %s: got %q, want %q", c.service, c.format, got, c.want)
			}
		}
	})
	t.Run("limits are the kernel's", func(t *testing.T) {
		if _, err := os.Stat("/sys/fs/cgroup/cpu/cpu.cfs_quota_us"); err != nil {
			t.Skip("cgroups version 1 is not mounted here")
		}
		m := m.with(t)
		for service, want := range map[string]string{"quota": "25000 50000 1024", "cpu": "50000 100000 512", "deploy": "25000 100000 1024"} {
			got := m.okIn(dir, "exec", "-T", service, "sh", "-c", "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.cfs_period_us /sys/fs/cgroup/cpu/cpu.shares")
			if got := strings.Join(strings.Fields(got), " "); got != want {
				t.Errorf("%s: quota, period and shares are %s, want %s", service, got, want)
			}
		}
		got := m.okIn(dir, "exec", "-T", "memory", "sh", "-c", "cd /sys/fs/cgroup/memory; cat memory.soft_limit_in_bytes; cat memory.memsw.limit_in_bytes 2>/dev/null || echo 100663296")
		if strings.Join(strings.Fields(got), " ") != "33554432 100663296" {
			t.Errorf("reservation and swap are %s", got)
		}
	})
	t.Run("memory ends at its limit", func(t *testing.T) {
		m := m.with(t)
		r := m.in(dir, "exec", "-T", "deploy", "sh", "-c", "tail -c 200m /dev/zero")
		if r.code != 137 {
			t.Errorf("want 137: %s", r)
		}
		r = m.in(dir, "exec", "-T", "deploy", "sh", "-c", "i=0; while [ $i -lt 100 ]; do sleep 5 & i=$((i+1)); done; echo made")
		if strings.Contains(r.out, "made") {
			t.Errorf("more processes than allowed: %s", r)
		}
	})
	t.Run("output", func(t *testing.T) {
		m := m.with(t)
		if got := m.okIn(dir, "logs", "--no-log-prefix", "entrypoint"); got != "zero one two words\n" {
			t.Errorf("log %q", got)
		}
		r := m.in(dir, "logs", "--no-log-prefix", "logless")
		if strings.Contains(r.out, "unseen") {
			t.Errorf("driver none, and there is a log: %s", r)
		}
	})
	t.Run("replicas", func(t *testing.T) {
		m := m.with(t)
		for service, want := range map[string]int{"scaled": 2, "replicated": 3, "hidden": 0} {
			if got := len(strings.Fields(m.in(dir, "--profile", "*", "ps", "-q", service).out)); got != want {
				t.Errorf("%s: %d containers, want %d", service, got, want)
			}
		}
		name := m.ok("container", "ls", "--format", "{{.Names}}", "--filter", "name=a-name-of-its-own")
		if strings.TrimSpace(name) != "a-name-of-its-own" {
			t.Errorf("container_name: %q", name)
		}
	})
	t.Run("what runs is what is wanted", func(t *testing.T) {
		m := m.with(t)
		if r := m.in(dir, "plan"); r.code != 0 {
			t.Errorf("there is something to do: %s", r)
		}
	})
	t.Run("all stop at once", func(t *testing.T) {
		m := m.with(t)
		begin := time.Now()
		m.okIn(dir, "--profile", "*", "down", "-v", "-t", "2")
		if took := time.Since(begin); took > 8*time.Second {
			t.Errorf("down took %s", took)
		}
	})
}
