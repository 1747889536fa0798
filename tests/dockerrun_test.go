package tests

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// dockerProgram is Debian's client; GANTRY_DOCKER names another.
var dockerProgram = cmp.Or(os.Getenv("GANTRY_DOCKER"), "/usr/bin/docker")

// docker runs Docker's own client against the machine's daemon.
func (m *machine) docker(args ...string) result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	return m.runCommand(m.dockerCommand(ctx, args...))
}

func (m *machine) dockerCommand(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, dockerProgram, args...)
	cmd.Dir = m.dir
	cmd.Env = append(os.Environ(), "DOCKER_HOST=unix://"+filepath.Join(m.run, "gantry.sock"), "DOCKER_CONFIG="+m.dir)
	return cmd
}

func (m *machine) dockerOK(args ...string) string {
	m.t.Helper()
	r := m.docker(args...)
	if r.code != 0 {
		m.t.Fatalf("docker %s", strings.TrimPrefix(r.String(), "gantry "))
	}
	return strings.TrimSpace(r.out)
}

func needsDocker(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(dockerProgram); err != nil {
		t.Skipf("%v; run `scripts/setup test` for Docker's client, or name one in GANTRY_DOCKER", err)
	}
}

// api sends one request to the machine's daemon, for what Debian's client is
// too old to say.
func (m *machine) api(method, path string, body any) (int, string) {
	m.t.Helper()
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(m.run, "gantry.sock"))
		},
	}}
	var in bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&in).Encode(body); err != nil {
			m.t.Fatal(err)
		}
	}
	req, err := http.NewRequest(method, "http://gantry"+path, &in)
	if err != nil {
		m.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := client.Do(req)
	if err != nil {
		m.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	var out bytes.Buffer
	if _, err := out.ReadFrom(res.Body); err != nil {
		m.t.Fatalf("%s %s: %v", method, path, err)
	}
	return res.StatusCode, out.String()
}

func dockerHelp(t testing.TB) string {
	t.Helper()
	help, err := exec.Command(dockerProgram, "run", "--help").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(help)
}

// known says whether the client has the flags of a row of newerRows; other rows
// are for every client.
func (r dockerRun) known(help string) bool {
	return !r.newer || strings.Contains(help, " "+strings.SplitN(r.flags[0], "=", 2)[0]+" ")
}

// newerRows are flags that Debian's client does not have.
func newerRows() []dockerRun {
	rows := []dockerRun{
		row("--annotation a=b", "echo runs", "runs"),
		row("--quiet", "echo runs", "runs"),
		row("--health-start-interval 1s --health-cmd true", "echo runs", "runs"),
		refusedRow("--cpu-count 1", "windows"),
		refusedRow("--cpu-percent 1", "windows"),
		refusedRow("--io-maxiops 1", "windows"),
		refusedRow("--io-maxbandwidth 1", "windows"),
		row("--use-api-socket", "test -S /var/run/docker.sock && echo there", "there"),
	}
	for i := range rows {
		rows[i].newer = true
	}
	return rows
}

// TestDockerRunFlags holds that every flag the client has is tried.
func TestDockerRunFlags(t *testing.T) {
	t.Parallel()
	needsDocker(t)
	help := dockerHelp(t)
	tried := map[string]bool{"help": true,
		// In the tests beside the tables.
		"cidfile": true, "detach": true, "interactive": true, "name": true, "rm": true, "tty": true, "label": true, "label-file": true,
		"entrypoint": true, "health-cmd": true, "health-interval": true, "health-retries": true, "health-start-period": true, "health-timeout": true,
		"detach-keys": true, "publish-all": true, "expose": true, "publish": true, "device-cgroup-rule": true,
	}
	for _, rows := range [][]dockerRun{newerRows(), processRows(""), limitRows("", "", ""), storageRows(""), networkRows(""), lifeRows("")} {
		for _, r := range rows {
			for _, f := range r.flags {
				name, _, _ := strings.Cut(strings.TrimLeft(f, "-"), "=")
				tried[name] = tried[name] || strings.HasPrefix(f, "-")
			}
		}
	}
	short := regexp.MustCompile(`(?m)^ +(?:-(\w), +|  +)--([a-z0-9-]+)`)
	all := short.FindAllStringSubmatch(help, -1)
	if len(all) < 90 {
		t.Fatalf("%d flags found in\n%s", len(all), help)
	}
	for _, f := range all {
		if !tried[f[2]] && (f[1] == "" || !tried[f[1]]) {
			t.Errorf("--%s is not tried", f[2])
		}
	}
}

// checkCreate makes a container by the API, starts it and compares what it
// prints; of a refused create, the error. want "!": the start is refused.
func (m *machine) checkCreate(body map[string]any, want string, code int) {
	t := m.t
	t.Helper()
	got, text := m.api("POST", "/v1.51/containers/create", body)
	if got != code {
		t.Fatalf("create: %d %s, want %d", got, text, code)
	}
	if code != http.StatusCreated {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("create: %s, want %q", text, want)
		}
		return
	}
	var made struct{ ID string }
	if err := json.Unmarshal([]byte(text), &made); err != nil {
		t.Fatal(err)
	}
	defer m.docker("rm", "-fv", made.ID)
	r := m.docker("start", "-a", made.ID)
	if want == "!" {
		if r.code == 0 || r.out != "" {
			t.Errorf("want a refusal: %s", r)
		}
		return
	}
	if r.code != 0 || !regexp.MustCompile(`(?s)^(`+want+`)\s*$`).MatchString(r.out) {
		t.Errorf("want %q: %s", want, r)
	}
}

// dockerRun is one row: flags of `docker run`, a command for the shell inside,
// and what it must print; or the words with which the daemon must refuse.
type dockerRun struct {
	flags   []string
	inside  string
	want    string // a regular expression for all that it prints
	refused string // a regular expression for the daemon's error
	newer   bool   // than Debian's client
}

// row reads flags separated by spaces, as a person writes them.
func row(flags, inside, want string) dockerRun {
	return dockerRun{flags: strings.Fields(flags), inside: inside, want: want}
}

func refusedRow(flags, words string) dockerRun {
	return dockerRun{flags: strings.Fields(flags), inside: "true", refused: words}
}

func runRows(t *testing.T, m *machine, rows []dockerRun) {
	help := dockerHelp(t)
	for _, r := range rows {
		if !r.known(help) {
			continue // the row is for newer clients
		}
		t.Run(strings.Join(r.flags, " "), func(t *testing.T) {
			t.Parallel()
			r.check(m.with(t))
		})
	}
}

func (r dockerRun) check(m *machine) {
	t := m.t
	t.Helper()
	args := append([]string{"run", "--rm"}, r.flags...)
	got := m.docker(append(args, "busybox", "sh", "-c", r.inside)...)
	if r.refused != "" {
		// What would run succeeds and prints nothing.
		if got.code == 0 || got.out != "" || !regexp.MustCompile(r.refused).MatchString(got.err) {
			t.Errorf("want a refusal with %q: docker %s", r.refused, got)
		}
		return
	}
	if got.code != 0 || !regexp.MustCompile(`(?s)^(`+r.want+`)\s*$`).MatchString(got.out) {
		t.Errorf("want %q: docker %s", r.want, got)
	}
}

// processRows are the flags that say what runs and as whom.
func processRows(dir string) []dockerRun {
	return []dockerRun{
		row("-e A=b -e FROM_OUTSIDE=", `echo "$A-$FROM_OUTSIDE-"`, "b--"),
		row("--env-file "+dir+"/env", `echo "$FROM_FILE:$OTHER"`, "yes:a b"),
		row("-w /made/on/the/way", "pwd; ls -d /made/on", "/made/on/the/way\n/made/on"),
		refusedRow("--workdir relative", "working_dir.*absolute|not an absolute path"),
		row("--user 1000:2000", "id -u; id -g", "1000\n2000"),
		row("--user 1000", "id -u; id -g", "1000\n0"),
		row("--user nobody", "id -un", "nobody"),
		row("--user nobody:0", "id -un; id -g", "nobody\n0"),
		refusedRow("--user no-such-user", "no-such-user"),
		row("--group-add 5555 --group-add nogroup", "id -G", ".*5555.*"),
		refusedRow("--group-add no-such-group", "no-such-group"),
		row("--init", "cat /proc/1/comm; ls /sbin/docker-init", "docker-init\n/sbin/docker-init"),
		row("--tty", "tty; echo $TERM", "/dev/pts/0\r\nxterm\r"),
		row("--hostname h1", "hostname; cat /etc/hostname; grep -c h1 /etc/hosts", "h1\nh1\n1"),
		row("--hostname h2 --domainname d.example", "cat /proc/sys/kernel/domainname; grep -o 'h2.d.example h2' /etc/hosts", "d.example\nh2.d.example h2"),
		row("--hostname h3.d.example", "hostname; grep -o 'h3.d.example h3' /etc/hosts", "h3.d.example\nh3.d.example h3"),
		row("--cap-add NET_ADMIN", "grep CapBnd /proc/self/status", "CapBnd:\t00000000a80435fb"),
		row("--cap-add CAP_NET_ADMIN", "grep CapBnd /proc/self/status", "CapBnd:\t00000000a80435fb"),
		row("--cap-add net_admin --cap-drop chown", "grep CapBnd /proc/self/status", "CapBnd:\t00000000a80435fa"),
		row("--cap-drop ALL", "grep CapBnd /proc/self/status", "CapBnd:\t0000000000000000"),
		row("--cap-drop ALL --cap-add KILL", "grep CapBnd /proc/self/status", "CapBnd:\t0000000000000020"),
		refusedRow("--cap-add NO_SUCH", "NO_SUCH"),
		row("--privileged", `[ -w /proc/sys/kernel/hostname ] && ls -d /dev/mem /dev/kmsg | head -1; grep Seccomp: /proc/self/status`, "/dev/.*\nSeccomp:\t0"),
		row("--security-opt no-new-privileges", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t1"),
		row("--security-opt no-new-privileges=false", "grep NoNewPrivs /proc/self/status", "NoNewPrivs:\t0"),
		row("--security-opt seccomp=unconfined", "grep Seccomp: /proc/self/status", "Seccomp:\t0"),
		row("--security-opt seccomp="+dir+"/seccomp.json", "mkdir /forbidden 2>&1 | grep -o 'not permitted'; echo runs", "not permitted\nruns"),
		row("--security-opt apparmor=unconfined", "echo runs", "runs"),
		row("--security-opt label=disable", "echo runs", "runs"),
		refusedRow("--security-opt label=type:x", "SELinux"),
		refusedRow("--security-opt no-such=x", "no-such"),
		row("--security-opt systempaths=unconfined", "mount | grep -c -E ' /proc/(sys|bus|kcore|keys) ' || true", "0"),
		row("--security-opt writable-cgroups=true", "mkdir /sys/fs/cgroup/pids/below && rmdir /sys/fs/cgroup/pids/below && echo writable", "writable"),
		row("--security-opt writable-cgroups=false", "mkdir /sys/fs/cgroup/pids/below 2>/dev/null || echo not", "not"),
		row("--userns host", "cat /proc/self/uid_map", ` +0 +0 +4294967295`),
		refusedRow("--userns private", "userns"),
		row("--uts host", "hostname", hostname()),
		refusedRow("--uts host --hostname x", "hostname.*UTS|uts"),
		row("--pid host", "cat /proc/1/comm; ls -d /proc/"+strconv.Itoa(os.Getpid()), ".*\n/proc/"+strconv.Itoa(os.Getpid())),
		refusedRow("--pid container:no-such", "no-such"),
		row("--ipc host", "readlink /proc/self/ns/ipc", regexp.QuoteMeta(readlink("/proc/self/ns/ipc"))),
		row("--ipc private", "mount | grep -c ' /dev/shm '", "1"),
		row("--ipc shareable", "mount | grep -c ' /dev/shm '", "1"),
		row("--ipc none", "mount | grep -c ' /dev/shm ' || true", "0"),
		refusedRow("--ipc container:no-such", "no-such"),
		refusedRow("--ipc sometimes", "sometimes"),
		row("--cgroupns private", "grep pids: /proc/self/cgroup", `\d+:pids:/`),
		row("--cgroupns host", "grep pids: /proc/self/cgroup", `\d+:pids:/.+/[0-9a-f]{64}`),
		row("--cgroup-parent /gt-parent", "grep pids: /proc/self/cgroup", `\d+:pids:/gt-parent/[0-9a-f]{64}`),
		row("--runtime runc", "echo runs", "runs"),
		row("--runtime io.containerd.runc.v2", "echo runs", "runs"),
		row("--runtime gantry", "echo runs", "runs"),
		refusedRow("--runtime kata", "kata"),
		row("--isolation default", "echo runs", "runs"),
		refusedRow("--isolation hyperv", "hyperv"),
		row("--platform linux/"+runtime.GOARCH, "echo runs", "runs"),
		refusedRow("--platform linux/s390x", "platform"),
		row("--pull never", "echo runs", "runs"),
		row("--pull missing", "echo runs", "runs"),
		row("--disable-content-trust", "echo runs", "runs"),
		refusedRow("--name no/name", "no/name"),
		row("--sig-proxy=false", "echo runs", "runs"),
		row("--read-only", "touch /x 2>&1 | grep -o 'Read-only'; touch /dev/shm/x && echo shm", "Read-only\nshm"),
		row("--sysctl net.ipv4.ip_forward=1", "cat /proc/sys/net/ipv4/ip_forward", "1"),
		row("--sysctl kernel.msgmax=4321", "cat /proc/sys/kernel/msgmax", "4321"),
		refusedRow("--sysctl vm.swappiness=1", "vm.swappiness"),
		refusedRow("--sysctl net.ipv4.ip_forward=1 --network host", "net.ipv4.ip_forward"),
		refusedRow("--gpus all", "DeviceRequests|GPU|gpu"),
	}
}

// denyMkdir lets every call through but mkdir.
const denyMkdir = `{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
	"syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}]}`

func hostname() string {
	name, _ := os.Hostname()
	return regexp.QuoteMeta(name)
}

func readlink(path string) string {
	to, _ := os.Readlink(path)
	return to
}

func TestDockerRunProcess(t *testing.T) {
	t.Parallel()
	needsDocker(t)
	m := newMachine(t, memory())
	write(t, filepath.Join(m.dir, "env"), "FROM_FILE=yes\n# comment\nOTHER=a b\n")
	write(t, filepath.Join(m.dir, "seccomp.json"), denyMkdir)
	t.Run("flags", func(t *testing.T) { runRows(t, m, append(newerRows(), processRows(m.dir)...)) })

	// An empty entrypoint resets the image's.
	m.ok("image", "import", archive(t, "busybox"), "talker", "--change", `ENTRYPOINT ["echo", "image"]`, "--change", `CMD ["default"]`)
	if out := m.dockerOK("run", "--rm", "talker"); out != "image default" {
		t.Errorf("%q", out)
	}
	if out := m.dockerOK("run", "--rm", "--entrypoint", "", "talker", "echo", "mine"); out != "mine" {
		t.Errorf("%q", out)
	}
	if out := m.dockerOK("run", "--rm", "--entrypoint", "printf", "talker", "%s", "other"); out != "other" {
		t.Errorf("%q", out)
	}
	m.sharedNamespaces()
	m.namesOfContainers()
}

// sharedNamespaces joins what another container has.
func (m *machine) sharedNamespaces() {
	t := m.t
	m.dockerOK("run", "-d", "--name", "peer", "--ipc", "shareable", "--hostname", "peerhost", "busybox", "sh", "-c", "echo hi > /dev/shm/x; exec sleep 1001")
	m.dockerOK("run", "-d", "--name", "closed", "--ipc", "private", "busybox", "sleep", "1000")
	eventually(t, 10*time.Second, "the peer writes", func() bool {
		return m.docker("run", "--rm", "--ipc", "container:peer", "busybox", "cat", "/dev/shm/x").out == "hi\n"
	})
	if out := m.dockerOK("run", "--rm", "--pid", "container:peer", "busybox", "ps"); !strings.Contains(out, "sleep 1001") {
		t.Errorf("--pid container: shows\n%s", out)
	}
	if out := m.dockerOK("run", "--rm", "--network", "container:peer", "busybox", "hostname"); out != "peerhost" {
		t.Errorf("--network container: has the host name %q", out)
	}
	if r := m.docker("run", "--rm", "--ipc", "container:closed", "busybox", "true"); r.code != 125 || !strings.Contains(r.err, "closed") {
		t.Errorf("--ipc of a private one: %s", r)
	}
	m.dockerOK("rm", "-f", "peer", "closed")
}

// namesOfContainers: Docker's rules and status codes.
func (m *machine) namesOfContainers() {
	t := m.t
	body := func(name, image string) (int, string) {
		return m.api("POST", "/v1.41/containers/create?name="+name, map[string]any{"Image": image, "Cmd": []string{"true"}})
	}
	for _, c := range []struct {
		name, image string
		code        int
	}{
		{"fine-name_1.x", "busybox", 201}, {"fine-name_1.x", "busybox", 409}, {"-x", "busybox", 400}, {"xx", "no-such-image", 404}, {"a", "busybox", 400},
	} {
		if code, text := body(c.name, c.image); code != c.code {
			t.Errorf("create %q of %s: %d %s, want %d", c.name, c.image, code, text, c.code)
		}
	}
	m.dockerOK("rm", "fine-name_1.x")
}

// cgroupsAt are the directories of a cgroup, in all hierarchies.
func cgroupsAt(t testing.TB, path string) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"/sys/fs/cgroup" + path, "/sys/fs/cgroup/*" + path} {
		dirs, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, dirs...)
	}
	return all
}
