package tests

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// realDockerfile is a project below tests/dockerfiles, of a kind people have.
type realDockerfile struct {
	dir     string                          // and the image's name
	context string                          // directory to build in it
	first   func(m *machine, dir string)    // makes what is no text, or the base
	args    []string                        // of the build
	more    func(m *machine) []string       // those that the machine is needed for
	check   func(t *testing.T, d *dockered) // looks at the image at work
	two     bool                            // Debian's docker build makes the same
}

// dockered is an image at work on a machine.
type dockered struct {
	*machine
	image string
}

const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// importBase gives a machine what the projects begin with.
func (m *machine) importBase(names ...string) {
	m.t.Helper()
	for _, name := range names {
		switch name {
		case "debian":
			m.ok("image", "import", archive(m.t, name), "debian:bookworm", "--change", `CMD ["bash"]`, "--change", "ENV PATH="+searchPath)
		case "golang":
			m.ok("image", "import", archive(m.t, name), "golang:1.26", "--change", "ENV GOTOOLCHAIN=local GOPATH=/go PATH=/go/bin:/usr/local/go/bin:"+searchPath)
		}
	}
}

// patient runs a command that may take its time: a package mirror is asked.
func (m *machine) patient(program string, env []string, args ...string) result {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := m.command(ctx, m.dir, args...)
	if program != "gantry" {
		cmd = m.dockerCommand(ctx, args...)
	}
	cmd.Env = append(cmd.Env, env...)
	return m.runCommand(cmd)
}

// build builds with gantry's client; the daemon does it for docker's, too.
func (m *machine) build(args ...string) {
	m.t.Helper()
	if r := m.patient("gantry", nil, append([]string{"image", "build", "--progress", "plain"}, args...)...); r.code != 0 {
		m.t.Fatalf("%s", r)
	}
}

// once runs the image's command to its end.
func (d *dockered) once(args ...string) string {
	d.t.Helper()
	return d.dockerOK(append([]string{"run", "--rm", d.image}, args...)...)
}

// start runs it in the background and gives the container's name.
func (d *dockered) start(args ...string) string {
	d.t.Helper()
	name := strings.NewReplacer("/", "-", ":", "-").Replace(d.image) + "-runs"
	d.dockerOK(append(append([]string{"run", "-d", "--name", name}, args...), d.image)...)
	d.t.Cleanup(func() { d.docker("rm", "-fv", name) })
	return name
}

// healthy waits until a container's own check says so.
func (d *dockered) healthy(name string) {
	d.t.Helper()
	eventually(d.t, 60*time.Second, name+" is healthy", func() bool {
		return strings.TrimSpace(d.ok("container", "inspect", name, "--format", "{{.State.Health.Status}}")) == "healthy"
	})
}

// ask asks a container on its own address, once it listens.
func (d *dockered) ask(name, port, path string, header ...string) (*http.Response, string) {
	d.t.Helper()
	req, err := http.NewRequestWithContext(d.t.Context(), http.MethodGet, "http://"+net.JoinHostPort(d.address(name, "bridge"), port)+path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	var resp *http.Response
	eventually(d.t, 30*time.Second, name+" answers", func() bool {
		resp, err = fresh(5 * time.Second).Do(req)
		return err == nil
	})
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		d.t.Fatal(err)
	}
	return resp, string(body)
}

func (d *dockered) says(what, got, want string) {
	d.t.Helper()
	if strings.TrimSpace(got) != strings.TrimSpace(want) {
		d.t.Errorf("%s of %s:\n%s\nwant:\n%s", what, d.image, got, want)
	}
}

// inspect formats the image.
func (d *dockered) inspect(format string) string {
	d.t.Helper()
	return strings.TrimSpace(d.ok("image", "inspect", d.image, "--format", format))
}

// Dockerfiles of the kind people have are built, side by side and with one
// cache of packages, and what they make runs. Five of them are built by Debian's
// docker build as well, in both of its ways, with the same result.
func TestDockerfiles(t *testing.T) {
	t.Parallel()
	needsDocker(t)
	m := newMachine(t, memory())
	m.importBase("debian", "golang")
	t.Run("each", func(t *testing.T) {
		for _, p := range realDockerfiles {
			t.Run(p.dir, func(t *testing.T) {
				t.Parallel()
				p.run(t, m.with(t))
			})
		}
	})
	t.Run("the base is stored once", func(t *testing.T) {
		for _, file := range []string{"etc/debian_version", "usr/local/go/bin/go"} {
			found, err := filepath.Glob(filepath.Join(m.root, "images", "snapshots", "snapshots", "*", "fs", file))
			if err != nil || len(found) != 1 {
				t.Errorf("%s lies at %v %v", file, found, err)
			}
		}
	})
}

func (p realDockerfile) run(t *testing.T, m *machine) {
	dir := filepath.Join(m.dir, p.dir)
	if err := os.CopyFS(dir, os.DirFS(filepath.Join(repo, "tests", "dockerfiles", p.dir))); err != nil {
		t.Fatal(err)
	}
	if p.first != nil {
		p.first(m, dir)
	}
	args := slices.Clone(p.args)
	if p.more != nil {
		args = append(args, p.more(m)...)
	}
	args = append(args, filepath.Join(dir, p.context))
	d := &dockered{m, p.dir}
	m.build(append([]string{"-t", d.image}, args...)...)
	p.check(t, d)
	if !p.two {
		return
	}
	want := d.inspect("{{json .RootFS.Layers}} {{json .Config}}")
	for kit, image := range map[string]string{"0": p.dir + ":classic", "1": p.dir + ":kit"} {
		r := m.patient(dockerProgram, []string{"DOCKER_BUILDKIT=" + kit}, append([]string{"build", "-t", image}, args...)...)
		if r.code != 0 {
			t.Errorf("DOCKER_BUILDKIT=%s %s", kit, strings.TrimPrefix(r.String(), "gantry "))
			continue
		}
		same := &dockered{m, image}
		same.says("image with DOCKER_BUILDKIT="+kit, same.inspect("{{json .RootFS.Layers}} {{json .Config}}"), want)
		p.check(t, same)
	}
}

// identity is a public key, as an agent of SSH lists it: the field's numbers
// are of draft-miller-ssh-agent.
func identity(comment string) []byte {
	text := func(s string) []byte { return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...) }
	key := append(text("ssh-ed25519"), text(strings.Repeat("k", 32))...)
	answer := binary.BigEndian.AppendUint32([]byte{12}, 1) // SSH_AGENT_IDENTITIES_ANSWER, one of them
	answer = append(append(answer, text(string(key))...), text(comment)...)
	return text(string(answer))
}

// sshAgent serves one key on a socket.
func sshAgent(t testing.TB, path, comment string) {
	t.Helper()
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serveIdentity(c, comment)
		}
	}()
}

func serveIdentity(c net.Conn, comment string) {
	defer c.Close()
	r := bufio.NewReader(c)
	for {
		var n uint32
		if binary.Read(r, binary.BigEndian, &n) != nil || n == 0 || n > 1<<16 {
			return
		}
		asked := make([]byte, n)
		if _, err := io.ReadFull(r, asked); err != nil {
			return
		}
		answer := []byte{0, 0, 0, 1, 5} // SSH_AGENT_FAILURE
		if asked[0] == 11 {             // SSH_AGENTC_REQUEST_IDENTITIES
			answer = identity(comment)
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

// packed writes a release as people put it beside their sources.
func packed(m *machine, dir string) {
	m.t.Helper()
	data := tarOf(m.t, file("release-2.0/VERSION", []byte("2.0\n")), script("release-2.0/bin/run", "#!/bin/sh\necho release runs\n"))
	write(m.t, filepath.Join(dir, "release.tar.gz"), string(gzipped(m.t, data)))
}

func script(name, text string) entry {
	e := file(name, []byte(text))
	e.Mode = 0o755
	return e
}

// stopped ends a container as people do, and gives how it has ended.
func (d *dockered) stopped(name string) string {
	d.t.Helper()
	begin := time.Now()
	d.dockerOK("stop", name)
	if took := time.Since(begin); took > 8*time.Second {
		d.t.Errorf("%s took %s to stop: it was killed", name, took)
	}
	return strings.TrimSpace(d.ok("container", "inspect", name, "--format", "{{.State.ExitCode}}"))
}

// output is what a container has written to both of its streams.
func (d *dockered) output(name string) string {
	d.t.Helper()
	cmd := d.dockerCommand(d.t.Context(), "logs", name)
	out, err := cmd.CombinedOutput()
	if err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	return string(out)
}
