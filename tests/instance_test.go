package tests

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// site is a project that has everything of which a machine has one: a port, a
// name, a network, a volume, an address.
const site = `
name: site
services:
  web:
    image: busybox
    command: sh -c 'cat /text/name >/www/index.html; exec httpd -f -p 80 -h /www'
    stop_signal: SIGKILL
    container_name: %TAG%-front
    ports: ["%PORT%:80", "127.0.0.1:%NEXT%:81"]
    volumes: [rows:/www, ./text:/text]
    networks: {back: {ipv4_address: 10.203.%NET%.7}}
networks: {back: {name: %TAG%-back, ipam: {config: [{subnet: 10.203.%NET%.0/24}]}}}
volumes: {rows: {name: %TAG%-rows}}
`

// git runs git, which knows nobody here.
func git(t testing.TB, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("git", append([]string{"-C", dir, "-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"}, args...)...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Two worktrees of one repository run side by side, each on what it has checked
// out, and one goes without the other.
func TestWorktreesSideBySide(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("git"); err != nil {
		t.Skip("git is not installed: it makes the worktrees")
	}
	m := newMachine(t)
	port := freePorts(t, 2)
	text := strings.NewReplacer("%TAG%", m.tag, "%PORT%", strconv.Itoa(port), "%NEXT%", strconv.Itoa(port+1), "%NET%", strconv.Itoa(port%250)).Replace(site)
	main := m.project("checkout", text, "text/name", "main")
	git(t, main, "init", "-q")
	git(t, main, "add", ".")
	git(t, main, "commit", "-q", "-m", "first")
	branch := filepath.Join(m.dir, "worktree")
	git(t, main, "worktree", "add", "-q", "-b", "Feature/log-in", branch)
	write(t, filepath.Join(branch, "text", "name"), "feature")

	m.okIn(main, "up", "-d")
	up := m.in(branch, "up", "-d", "--instance", "auto")
	if up.code != 0 {
		t.Fatal(up)
	}
	at := strings.TrimSpace(m.okIn(branch, "port", "--instance", "auto", "web", "80"))
	_, moved, err := net.SplitHostPort(at)
	if err != nil || moved == strconv.Itoa(port) {
		t.Fatalf("the copy is at %q: %v", at, err)
	}
	inOrder(t, up.err, "web: port "+strconv.Itoa(port)+" is "+moved+" in the copy site-feature-log-in")
	if n := strings.Count(up.err, "is "+moved+" in"); n != 1 {
		t.Errorf("the port is said %d times: %s", n, up)
	}
	inOrder(t, up.err, "subnet 10.203.") // free addresses instead
	for addr, want := range map[string]string{"127.0.0.1:" + strconv.Itoa(port): "main", "127.0.0.1:" + moved: "feature"} {
		if got := fetch(t, addr); got != want {
			t.Errorf("%s answers %q, want %q", addr, got, want)
		}
	}
	for _, name := range []string{m.tag + "-front", m.tag + "-front-feature-log-in"} {
		if s := m.shows(name, "{{.State.Status}}"); s != "running" {
			t.Errorf("container %s is %s", name, s)
		}
	}
	volumes := m.ok("volume", "ls", "-q")
	for _, name := range []string{m.tag + "-rows\n", m.tag + "-rows-feature-log-in\n"} {
		if !strings.Contains(volumes, name) {
			t.Errorf("no volume %s among %s", name, volumes)
		}
	}

	// Every command means the same copy, by the flag and by the variable.
	env := m.okIn(branch, "--instance=auto", "env", "web")
	out, err := exec.Command("sh", "-c", env+`printf %s "$WEB_80"`).Output()
	if err != nil || string(out) != "127.0.0.1:"+moved {
		t.Errorf("a shell reads %q of %q: %v", out, env, err)
	}
	copied := m.with(t)
	copied.env = append(copied.env, "GANTRY_INSTANCE=auto")
	var vars map[string]string
	if err := json.Unmarshal([]byte(copied.okIn(branch, "env", "--format", "json")), &vars); err != nil || vars["WEB_80"] != "127.0.0.1:"+moved || len(vars) != 2 {
		t.Errorf("as JSON: %v, %v", vars, err)
	}
	if got := copied.okIn(branch, "ps", "--format", "{{.Name}}"); got != m.tag+"-front-feature-log-in\n" {
		t.Errorf("ps shows %q", got)
	}
	if got := copied.okIn(branch, "exec", "-T", "web", "cat", "/text/name"); got != "feature" {
		t.Errorf("exec reads %q", got)
	}
	if got := copied.okIn(branch, "exec", "-T", "web", "wget", "-qO-", "http://"+m.tag+"-front"); strings.TrimSpace(got) != "feature" {
		t.Errorf("by the name in the file %q answers", got)
	}
	if got := copied.okIn(branch, "config"); !strings.Contains(got, "published: \""+moved+"\"") {
		t.Errorf("config does not show the port:\n%s", got)
	}
	if r := copied.in(branch, "plan"); r.code != 0 {
		t.Errorf("a second up would do something: %s", r)
	}

	// The copy goes and comes again at the same port; the other does not notice.
	since := m.shows(m.tag+"-front", "{{.State.StartedAt}}")
	copied.okIn(branch, "down", "-v")
	if got := fetch(t, "127.0.0.1:"+strconv.Itoa(port)); got != "main" {
		t.Errorf("after down of the copy it answers %q", got)
	}
	copied.okIn(branch, "up", "-d", "--progress", "quiet")
	if again := strings.TrimSpace(copied.okIn(branch, "port", "web", "80")); again != at {
		t.Errorf("the copy is at %s, and was at %s", again, at)
	}
	m.okIn(main, "down")
	if got := fetch(t, "127.0.0.1:"+moved); got != "feature" {
		t.Errorf("after down of the first the copy answers %q", got)
	}
	if since == "" || !strings.Contains(m.ok("volume", "ls", "-q"), m.tag+"-rows\n") {
		t.Error("down of the copy has touched the first")
	}

	git(t, branch, "checkout", "-q", "--detach")
	copied.fails(branch, []string{"ps"}, "GANTRY_INSTANCE auto", "detached HEAD", "--instance NAME")
	m.fails(m.project("plain", text), []string{"up", "--instance", "auto"}, "--instance auto", "in no git repository", "--instance NAME")
}

// A port that is taken is not waited for, and one that was found is kept.
func TestCopyAroundTakenPort(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	dir := m.project("around", `
services:
  web: {image: busybox, command: sleep 1000, stop_signal: SIGKILL, ports: ["127.0.0.1:`+strconv.Itoa(freePorts(t, 2))+`:80"]}
`)
	place := func() string {
		t.Helper()
		m.okIn(dir, "up", "-d", "--instance", "two")
		return strings.TrimSpace(m.okIn(dir, "port", "--instance", "two", "web", "80"))
	}
	first := place()
	m.okIn(dir, "down", "--instance", "two")
	l, err := net.Listen("tcp", first)
	if err != nil {
		t.Fatal(err)
	}
	second := place()
	if second == first {
		t.Errorf("both are at %s", first)
	}
	l.Close()
	if again := place(); again != second {
		t.Errorf("it went from %s to %s", second, again)
	}
}

// Two directories of one name are two projects: the second is refused, and
// what a user means to do is done.
func TestPlaces(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	const text = `
name: shared
services:
  web: {image: busybox, command: sleep 1000, stop_signal: SIGKILL}
`
	const more = text + "  job: {image: busybox, command: sleep 1000, stop_signal: SIGKILL}\n"
	one, two := m.project("one", more), m.project("two", text)
	m.okIn(one, "up", "-d")
	started := func() string { return m.shows("shared-web-1", "{{.State.StartedAt}}") }
	since := started()
	for _, args := range [][]string{
		{"up", "-d"}, {"up", "-d", "--remove-orphans"}, {"plan"}, {"create"}, {"down"}, {"down", "-v", "--remove-orphans"}, {"stop"}, {"kill"},
		{"restart"}, {"rm", "-sf"}, {"scale", "web=2"}, {"exec", "-T", "web", "true"}, {"port", "web", "80"}, {"pause"}, {"rollback"},
	} {
		m.fails(two, args, "project shared is that of "+one+", and this is "+two, "--instance NAME", "-p shared")
	}
	r := m.in(two, "ps", "-q")
	if r.code != 0 || strings.Count(r.out, "\n") != 2 || !strings.Contains(r.err, "note: project shared is that of "+one) {
		t.Errorf("ps does not say whose it shows: %s", r)
	}
	if started() != since {
		t.Error("the first has noticed")
	}
	link := filepath.Join(m.dir, "link")
	if err := os.Symlink(one, link); err != nil {
		t.Fatal(err)
	}
	if r := m.in(link, "--project-directory", link, "plan"); r.code != 0 {
		t.Errorf("by a link the project is another: %s", r)
	}

	// A copy of its own, or the same by its name: then orphans stay all the same.
	m.okIn(two, "up", "-d", "--instance", "two")
	m.okIn(two, "down", "--instance", "two")
	m.okIn(two, "-p", "shared", "up", "-d", "--force-recreate", "--remove-orphans")
	if s := m.shows("shared-job-1", "{{.State.Status}}"); s != "running" {
		t.Errorf("another place's container is %s", s)
	}
	m.okIn(two, "ps")
	m.okIn(two, "rollback") // to what the other place wanted, whose the project is then
	m.fails(two, []string{"up", "-d"}, "project shared is that of "+one+", and this is "+two)
	m.okIn(two, "-p", "shared", "up", "-d", "--force-recreate")
	m.fails(one, []string{"up", "-d"}, "project shared is that of "+two+", and this is "+one)
	if r := m.in(two, "down", "--remove-orphans"); r.code != 0 || !strings.Contains(r.err, "those of "+one+": shared-job-1") {
		t.Errorf("down does not say what stays: %s", r)
	}
	m.okIn(one, "down", "--remove-orphans")
	if got := m.okIn(one, "ps", "-aq"); got != "" {
		t.Errorf("left: %s", got)
	}

	// A directory that was moved is where the project is, running or not.
	m.okIn(one, "up", "-d")
	moved := filepath.Join(m.dir, "moved")
	if err := os.Rename(one, moved); err != nil {
		t.Fatal(err)
	}
	id := m.okIn(moved, "ps", "-q", "web")
	r = m.in(moved, "up", "-d")
	if r.code != 0 || !strings.Contains(r.err, "project shared has moved here from "+one) || m.okIn(moved, "ps", "-q", "web") != id {
		t.Errorf("a moved project is not taken for the same: %s", r)
	}
	m.okIn(moved, "restart", "-t", "0", "web")
	write(t, filepath.Join(moved, "compose.yaml"), text)
	m.okIn(moved, "up", "-d", "--remove-orphans")
	if got := m.okIn(moved, "ps", "-a", "--format", "{{.Service}}"); got != "web\n" {
		t.Errorf("orphans of before the move stay: %s", got)
	}
	if r := m.in(moved, "plan"); r.code != 0 {
		t.Errorf("it is not settled: %s", r)
	}
}
