package tests

import (
	"archive/tar"
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// refused is a project that must not come up.
type refused struct {
	name  string
	yaml  string
	files []string // further files: name, text, name, text, …
	env   []string
	words []string // all of them in the one line of error
}

// Whatever is wrong with a project, up says so in one line with the place, the
// cause and the next step, ends with code 1, and leaves everything as it was.
func TestBadInput(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	// The first container makes directories that stay for the next.
	m.okIn(m.project("first", "services: {web: {image: busybox, command: \"true\"}}"), "up", "-d")
	time.Sleep(100 * time.Millisecond)
	m.ok("-p", "first", "down")
	const service = "services:\n  web:\n    image: busybox\n"
	for _, c := range []refused{
		{name: "not YAML", yaml: "services:\n  web: [image\n", words: []string{"compose.yaml:", "not YAML"}},
		{name: "a list at the top", yaml: "- services\n", words: []string{"compose.yaml:1", "mapping"}},
		{name: "empty", yaml: "", words: []string{"compose.yaml", "empty", "services"}},
		{name: "an unknown key", yaml: service + "    imagee: x\n", words: []string{"compose.yaml:4", "services.web", "imagee", "did you mean image?"}},
		{name: "an unknown key at the top", yaml: service + "servics: {}\n", words: []string{"compose.yaml:4", "servics"}},
		{name: "a circle", yaml: `
services:
  a: {image: busybox, depends_on: [b]}
  b: {image: busybox, depends_on: [c]}
  c: {image: busybox, depends_on: [a]}
`, words: []string{"compose.yaml:", "a", "b", "c", "→", "depends_on"}},
		{name: "an undefined service", yaml: service + "    depends_on: [db]\n", words: []string{"compose.yaml:4", "depends_on", "db"}},
		{name: "an undefined network", yaml: service + "    networks: [back]\n", words: []string{"compose.yaml:4", "network", "back"}},
		{name: "an undefined volume", yaml: service + "    volumes: [\"data:/data\"]\n", words: []string{"compose.yaml:4", "volume", "data"}},
		{name: "an undefined secret", yaml: service + "    secrets: [key]\n", words: []string{"compose.yaml:4", "secret", "key"}},
		{name: "an undefined config", yaml: service + "    configs: [conf]\n", words: []string{"compose.yaml:4", "config", "conf"}},
		{name: "a namespace of an undefined service", yaml: service + "    network_mode: service:db\n", words: []string{"compose.yaml:4", "db"}},
		{name: "a missing variable", yaml: service + "    hostname: ${NAME:?give it a name}\n", words: []string{"compose.yaml:4", "services.web.hostname", "NAME", "give it a name"}},
		{name: "a broken interpolation", yaml: service + "    hostname: ${NAME\n", words: []string{"compose.yaml:4", "${NAME", "$$"}},
		{name: "a missing env_file", yaml: service + "    env_file: nope.env\n", words: []string{"compose.yaml:4", "nope.env"}},
		{name: "a missing secret's file", yaml: service + "    secrets: [key]\nsecrets: {key: {file: ./key.txt}}\n", words: []string{"compose.yaml:5", "key.txt"}},
		{name: "a wrong type", yaml: service + "    ports: 80\n", words: []string{"compose.yaml:4", "services.web.ports", "list"}},
		{name: "a port that is none", yaml: service + "    ports: [\"99999:80\"]\n", words: []string{"compose.yaml:4", "99999"}},

		{name: "an image that is not there", yaml: "services: {web: {image: nothere, pull_policy: never}}", words: []string{"web", "nothere", "gantry image load"}},
		{name: "a build without a Dockerfile", yaml: "services: {web: {build: .}}", words: []string{"service web: no Dockerfile", "write it"}},
		{name: "a build nobody can do", yaml: "services:\n  web:\n    build: {context: ., isolation: hyperv}", words: []string{"compose.yaml:3", "services.web.build.isolation"}},
		{name: "an external network", yaml: service + "    networks: [far]\nnetworks: {far: {external: true}}\n", words: []string{"far", "create a network far"}},
		{name: "an external volume", yaml: service + "    volumes: [\"far:/data\"]\nvolumes: {far: {external: true}}\n", words: []string{"far", "create a volume far"}},
		{name: "a bind source that is not there", yaml: service + `    volumes:
      - {type: bind, source: ./nothere, target: /data, bind: {create_host_path: false}}
`, words: []string{"web", "nothere", "does not exist", "create it"}},

		{name: "a command that is not there", yaml: service + "    command: [/bin/nosuch]\n", words: []string{"web", "/bin/nosuch", "no such file"}},
		{name: "a command that is no program", yaml: service + "    command: [/etc/passwd]\n", words: []string{"web", "/etc/passwd", "permission denied"}},
		{name: "a user that is not there", yaml: service + "    user: nosuch\n", words: []string{"web", "user", "nosuch"}},
		{name: "a working_dir that is a file", yaml: service + "    working_dir: /etc/passwd\n    command: \"true\"\n", words: []string{"web", "working_dir /etc/passwd", "file", "name a directory"}},

		{name: "a sysctl of the machine", yaml: service + "    sysctls: {vm.swappiness: 1}\n", words: []string{"web", "vm.swappiness", "whole machine", "set it on the host"}},
		{name: "a sysctl that is none", yaml: service + "    sysctls: {net.ipv4.nosuch: 1}\n", words: []string{"web", "nosuch"}},
		{name: "a capability that is none", yaml: service + "    cap_add: [FLYING]\n", words: []string{"web", "cap_add", "FLYING"}},
		{name: "a capability gantry has not", yaml: service + "    cap_add: [SYS_RESOURCE]\n", words: []string{"web", "cap_add", "SYS_RESOURCE"}},
		{name: "a limit that is none", yaml: service + "    ulimits: {nosuch: 1}\n", words: []string{"web", "ulimits.nosuch", "nofile"}},
		{name: "a soft limit above the hard one", yaml: service + "    ulimits: {nofile: {soft: 200, hard: 100}}\n", words: []string{"web", "ulimits.nofile", "200", "100"}},
		{name: "a limit above the machine's", yaml: service + "    ulimits: {nofile: 2000000000}\n", words: []string{"web", "ulimits.nofile", "2000000000"}},
		{name: "little memory", yaml: service + "    mem_limit: 1m\n", words: []string{"web", "mem_limit", "6"}},
		{name: "a reservation above the limit", yaml: service + "    mem_limit: 32m\n    mem_reservation: 64m\n", words: []string{"web", "mem_reservation", "mem_limit"}},
		{name: "swap below memory", yaml: service + "    mem_limit: 32m\n    memswap_limit: 16m\n", words: []string{"web", "memswap_limit"}},
		{name: "CPUs that are not there", yaml: service + "    cpuset: 0-4095\n", words: []string{"web", "cpuset"}},
		{name: "a cpuset that is none", yaml: service + "    cpuset: zero\n", words: []string{"web", "cpuset", "zero"}},
		{name: "more CPUs than there are", yaml: service + "    cpus: 4096\n", words: []string{"web", "cpus", "4096"}},
		{name: "both cpus and cpu_quota", yaml: service + "    cpus: 1\n    cpu_quota: 1000\n", words: []string{"web", "cpu"}},
		{name: "a signal that is none", yaml: service + "    stop_signal: SIGNOPE\n", words: []string{"web", "stop_signal", "SIGNOPE", "SIGTERM"}},
		{name: "a restart policy that is none", yaml: service + "    restart: sometimes\n", words: []string{"compose.yaml:4", "web", "restart", "sometimes", "on-failure"}},
		{name: "a seccomp profile that is not there", yaml: service + "    security_opt: [\"seccomp=./nope.json\"]\n", words: []string{"web", "seccomp", "nope.json"}},
		{name: "a seccomp profile that is none", yaml: service + "    security_opt: [\"seccomp=./bad.json\"]\n", files: []string{"bad.json", "{"}, words: []string{"web", "seccomp"}},
		{name: "a DNS server that is none", yaml: service + "    dns: nosuch\n", words: []string{"web", "dns", "nosuch"}},
		{name: "ports without a network", yaml: service + "    network_mode: none\n    ports: [\"80\"]\n", words: []string{"web", "ports", "network_mode"}},
		{name: "an address outside the subnet", yaml: service + "    networks: {back: {ipv4_address: 10.9.9.9}}\nnetworks: {back: {ipam: {config: [{subnet: 10.213.7.0/24}]}}}\n", words: []string{"10.9.9.9", "10.213.7.0/24"}},
		{name: "a subnet that is none", yaml: service + "networks: {default: {ipam: {config: [{subnet: here}]}}}\n", words: []string{"subnet", "here"}},
		{name: "a log size that is none", yaml: service + "    logging: {options: {max-size: much}}\n", words: []string{"web", "max-size", "much"}},
		{name: "two services with one container_name", yaml: "services:\n  a: {image: busybox, container_name: one}\n  b: {image: busybox, container_name: one}\n", words: []string{"one", "a", "b"}},
		{name: "replicas with one container_name", yaml: service + "    container_name: one\n    scale: 2\n", words: []string{"web", "container_name"}},
	} {
		t.Run(c.name, func(t *testing.T) { m.with(t).refuses(c) })
	}
	t.Run("a port in use", func(t *testing.T) {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := l.Addr().(*net.TCPAddr).Port
		m.with(t).refuses(refused{
			yaml:  service + fmt.Sprintf("    command: sleep 1000\n    ports: [\"%d:80\"]\n", port),
			words: []string{"web", fmt.Sprint(port), fmt.Sprint(os.Getpid()), filepath.Base(os.Args[0])[:10]},
		})
	})
	t.Run("a subnet the host routes", func(t *testing.T) {
		const subnet = "10.213.9.0/24"
		link := "gtnet" + m.tag
		command(t, "ip", "link", "add", link, "type", "bridge")
		defer command(t, "ip", "link", "del", link)
		command(t, "ip", "addr", "add", "10.213.9.7/24", "dev", link)
		command(t, "ip", "link", "set", link, "up")
		m.with(t).refuses(refused{
			yaml:  service + "    networks: [back]\nnetworks: {back: {ipam: {config: [{subnet: " + subnet + "}]}}}\n",
			words: []string{"back", subnet, link},
		})
	})
	t.Run("before anything is touched", func(t *testing.T) {
		m := m.with(t)
		dir := m.project("bad", service+`    command: "true"
  late: {image: busybox, volumes: [{type: bind, source: /no/such/place, target: /data, bind: {create_host_path: false}}], depends_on: [web]}
`)
		r := m.in(dir, "up", "-d")
		m.oneLine(r, "late", "/no/such/place")
		if strings.Contains(r.err, "Creating") {
			t.Errorf("something was made: %s", r)
		}
	})
	t.Run("nobody home", func(t *testing.T) {
		m := m.with(t)
		r := m.in(m.dir, "ps", "-a")
		m.oneLine(r, "compose file")
		m.oneLine(m.in(m.dir, "-f", "nope.yaml", "up", "-d"), "nope.yaml")
		m.oneLine(m.in(m.dir, "-p", "nobody", "scale", "web=2"), "nobody", "gantry up -d")
		nameless := filepath.Join(m.dir, "___")
		if err := os.Mkdir(nameless, 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(nameless, "compose.yaml"), service)
		m.oneLine(m.in(nameless, "up", "-d"), "no name", "-p")
		m.oneLine(m.in(m.dir, "frobnicate"), "frobnicate", "--help")
		m.oneLine(m.in(m.dir, "up", "--frobnicate"), "frobnicate", "--help")
	})
}

// command runs a program of the host.
func command(t testing.TB, args ...string) string {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// refuses brings a project up, which must fail and leave no trace.
func (m *machine) refuses(c refused) {
	m.t.Helper()
	dir := m.project("bad", c.yaml, c.files...)
	defer os.RemoveAll(dir)
	things, host := m.things(), m.snapshot()
	m.env = append(m.env, c.env...)
	m.oneLine(m.in(dir, "up", "-d"), c.words...)
	// Networks and volumes of the project are whole, and go with it; whatever
	// could not be started does not stay.
	if left := m.ok("container", "ls", "-aq"); left != "" {
		m.t.Errorf("containers are left:\n%s", m.ok("container", "ls", "-a"))
	}
	m.okIn(m.dir, "-p", "bad", "down", "-v")
	if now := m.things(); now != things {
		m.t.Errorf("before:\n%s\nafter:\n%s", things, now)
	}
	if left := m.settled(host); left != "" {
		m.t.Errorf("left behind on the host:\n%s", left)
	}
	if left := m.leftovers(); len(left) > 0 {
		m.t.Errorf("files left: %v", left)
	}
}

// things are the objects the daemon knows.
func (m *machine) things() string {
	m.t.Helper()
	return m.ok("container", "ls", "-aq") + "\n" + m.ok("network", "ls", "--format", "{{.Name}}") + "\n" + m.ok("volume", "ls", "-q") + "\n" + m.ok("image", "ls", "-q")
}

// oneLine wants an error as it should be: exit code 1, one line, with words.
func (m *machine) oneLine(r result, words ...string) {
	m.t.Helper()
	if r.code != 1 {
		m.t.Errorf("want exit code 1: %s", r)
	}
	var complaints []string
	for line := range strings.Lines(r.err) {
		if strings.HasPrefix(line, "gantry:") {
			complaints = append(complaints, strings.TrimSpace(line))
		} else if !strings.HasPrefix(line, " ") {
			m.t.Errorf("%q is neither progress nor an error", line)
		}
	}
	if len(complaints) != 1 {
		m.t.Fatalf("want one line of error: %s", r)
	}
	for _, w := range words {
		if !strings.Contains(complaints[0], w) {
			m.t.Errorf("%q is not in the error: %s", w, complaints[0])
		}
	}
	if strings.Contains(complaints[0], m.root) || strings.Count(complaints[0], "\n") > 0 || len(complaints[0]) > 400 {
		m.t.Errorf("a user cannot read this: %s", complaints[0])
	}
}

// An archive that is damaged makes no image, whole or half.
func TestBadArchives(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	whole, err := os.ReadFile(archive(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	docker := dockerArchive(t, "made:1", tarOf(t, file("etc/greeting", []byte("a greeting that nobody changes"))))
	for _, c := range []struct {
		name  string
		verb  []string
		data  []byte
		words []string
	}{
		{"a truncated file system", []string{"import"}, whole[:len(whole)/2], []string{"truncated"}},
		{"no archive", []string{"import"}, bytes.Repeat([]byte("this is no tar file. "), 100), []string{"tar"}},
		{"an empty file", []string{"import"}, nil, []string{"empty"}},
		{"a broken gzip", []string{"import"}, append([]byte{0x1f, 0x8b, 8, 0}, bytes.Repeat([]byte{7}, 600)...), []string{"damaged"}},
		{"a truncated docker archive", []string{"load", "-i"}, docker[:len(docker)/2], []string{"truncated"}},
		{"a docker archive with a wrong layer", []string{"load", "-i"}, bytes.Replace(docker, []byte("nobody changes"), []byte("I have changed"), 1), []string{"made:1", "layer 1", "sha256:"}},
		{"a file system to load", []string{"load", "-i"}, whole, []string{"manifest.json", "gantry image import"}},
		{"nothing to load", []string{"load", "-i"}, nil, []string{"empty"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := m.with(t)
			path := filepath.Join(m.dir, "bad.tar")
			if err := os.WriteFile(path, c.data, 0o644); err != nil {
				t.Fatal(err)
			}
			before := m.things()
			blobs := count(t, m.root)
			args := append(append([]string{"image"}, c.verb...), path)
			if c.verb[0] == "import" {
				args = append(args, "bad:1")
			}
			m.oneLine(m.gantry(args...), append(c.words, "bad.tar")...)
			if now := m.things(); now != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, now)
			}
			// What was unpacked is collected a little later.
			eventually(t, 5*time.Second, "no file is left", func() bool { return count(t, m.root) <= blobs })
			if m.gantry("image", "inspect", "bad:1").code == 0 {
				t.Error("there is an image")
			}
		})
	}
}

// count is how many files are below a directory.
func count(t testing.TB, dir string) (n int) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() && !strings.HasSuffix(path, ".log") {
			n++
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// entry is a file in an archive made here.
type entry struct {
	tar.Header
	body string
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		e.Size = int64(len(e.body))
		if e.Mode == 0 {
			e.Mode = 0o755
		}
		if e.Typeflag == 0 {
			e.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(e.body)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
