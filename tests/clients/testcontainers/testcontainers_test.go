// Package testcontainers runs Testcontainers for Go on the daemon that
// DOCKER_HOST names. It needs an image named busybox, and knows nothing of
// gantry. No registry is asked: the one further image Testcontainers wants, its
// reaper, is a stand-in made here (see ryuk).
package testcontainers

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/client"
	tc "github.com/testcontainers/testcontainers-go"
	tcexec "github.com/testcontainers/testcontainers-go/exec"
	"github.com/testcontainers/testcontainers-go/network"
	"github.com/testcontainers/testcontainers-go/wait"
)

// reaper is the image that this version of Testcontainers tidies up with.
const reaper = "testcontainers/ryuk:0.14.0"

// leaver is set in a test run that ends without tidying up.
const leaver = "TEST_LEAVES"

func TestMain(m *testing.M) {
	if os.Getenv("DOCKER_HOST") == "" {
		fmt.Fprintln(os.Stderr, "DOCKER_HOST names no daemon to ask")
		os.Exit(1)
	}
	os.Setenv("TESTCONTAINERS_RYUK_RECONNECTION_TIMEOUT", "1s")
	if os.Getenv(leaver) == "" {
		if err := makeRyuk(); err != nil {
			fmt.Fprintln(os.Stderr, "make the image of a reaper:", err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// makeRyuk commits a busybox with the stand-in under the name Testcontainers
// asks for.
func makeRyuk() (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "ryuk-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	program := filepath.Join(dir, "ryuk")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "./ryuk")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	data, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "ryuk", Size: int64(len(data)), Mode: 0o755}); err != nil {
		return err
	}
	if _, err := w.Write(data); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	docker, err := client.New(client.FromEnv)
	if err != nil {
		return err
	}
	defer docker.Close()
	c, err := docker.ContainerCreate(ctx, client.ContainerCreateOptions{Image: "busybox"})
	if err != nil {
		return err
	}
	defer func() {
		_, gone := docker.ContainerRemove(ctx, c.ID, client.ContainerRemoveOptions{Force: true})
		err = errors.Join(err, gone)
	}()
	if _, err := docker.CopyToContainer(ctx, c.ID, client.CopyToContainerOptions{DestinationPath: "/bin", Content: &archive}); err != nil {
		return err
	}
	_, err = docker.ContainerCommit(ctx, c.ID, client.ContainerCommitOptions{Reference: reaper, Changes: []string{`ENTRYPOINT ["/bin/ryuk"]`, "EXPOSE 8080"}})
	return err
}

// run starts a busybox with a command, and has it removed in the end.
func run(t *testing.T, command string, opts ...tc.ContainerCustomizer) *tc.DockerContainer {
	t.Helper()
	all := []tc.ContainerCustomizer{
		tc.WithCmd("sh", "-c", command),
		tc.WithConfigModifier(func(c *container.Config) { c.StopSignal = "KILL" }),
	}
	c, err := tc.Run(t.Context(), "busybox", append(all, opts...)...)
	tc.CleanupContainer(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// says gives what a command in a container writes.
func says(t *testing.T, c tc.Container, command string) string {
	t.Helper()
	code, out, err := c.Exec(t.Context(), []string{"sh", "-c", command}, tcexec.Multiplexed())
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(out)
	if err != nil || code != 0 {
		t.Fatalf("%s: exit code %d, %v: %s", command, code, err, text)
	}
	return string(text)
}

const serve = `mkdir /www; echo "$GREETING" >/www/index.html; `

func TestWaitStrategies(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]wait.Strategy{
		"log":    wait.ForLog("ready"),
		"regexp": wait.ForLog("re.dy").AsRegexp(),
		"port":   wait.ForListeningPort("80/tcp"),
		"mapped": wait.ForMappedPort("80/tcp"),
		"http":   wait.ForHTTP("/").WithPort("80/tcp").WithResponseMatcher(func(r io.Reader) bool { text, _ := io.ReadAll(r); return string(text) == "hello\n" }),
		"exec":   wait.ForExec([]string{"test", "-e", "/ready"}),
		"health": wait.ForHealthCheck(),
		"file":   wait.ForFile("/ready"),
		"all":    wait.ForAll(wait.ForLog("ready"), wait.ForExposedPort()),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := run(t, serve+"sleep 0.3; touch /ready; echo ready; exec httpd -f -p 80 -h /www",
				tc.WithEnv(map[string]string{"GREETING": "hello"}), tc.WithExposedPorts("80/tcp"), tc.WithWaitStrategy(s),
				tc.WithConfigModifier(func(c *container.Config) {
					c.Healthcheck = &container.HealthConfig{Test: []string{"CMD", "test", "-e", "/ready"}, Interval: 200 * time.Millisecond}
				}))
			if name == "mapped" {
				return // it waits for no server
			}
			says(t, c, "test -e /ready")
			endpoint, err := c.Endpoint(t.Context(), "http")
			if err != nil {
				t.Fatal(err)
			}
			if text := fetch(t, endpoint); text != "hello\n" {
				t.Errorf("%q", text)
			}
		})
	}
	t.Run("exit", func(t *testing.T) {
		t.Parallel()
		c := run(t, "sleep 0.2; exit 3", tc.WithWaitStrategy(wait.ForExit()))
		if s, err := c.State(t.Context()); err != nil || s.ExitCode != 3 {
			t.Errorf("%+v, %v", s, err)
		}
	})
	t.Run("in vain", func(t *testing.T) {
		t.Parallel()
		c, err := tc.Run(t.Context(), "busybox", tc.WithCmd("sh", "-c", "echo other words; exit 4"), tc.WithWaitStrategy(wait.ForLog("ready").WithStartupTimeout(10*time.Second)))
		tc.CleanupContainer(t, c)
		if err == nil || !strings.Contains(err.Error(), "exit") {
			t.Errorf("it ended before it was ready: %v", err)
		}
	})
}

// fetch asks until somebody answers.
func fetch(t *testing.T, url string) string {
	t.Helper()
	var last error
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		resp, err := http.Get(url)
		if err != nil {
			last = err
			continue
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	t.Fatal(last)
	return ""
}

func TestNetwork(t *testing.T) {
	t.Parallel()
	n, err := network.New(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tc.CleanupNetwork(t, n)
	server := run(t, serve+"exec httpd -f -p 80 -h /www", network.WithNetwork([]string{"web", "www"}, n),
		tc.WithEnv(map[string]string{"GREETING": "from the network"}), tc.WithWaitStrategy(wait.ForExec([]string{"wget", "-qO-", "http://127.0.0.1/"})))
	guest := run(t, "sleep 1000", network.WithNetwork([]string{"guest"}, n))
	for _, alias := range []string{"web", "www"} {
		if out := says(t, guest, "wget -qO- http://"+alias+"/"); out != "from the network\n" {
			t.Errorf("%s: %q", alias, out)
		}
	}
	aliases, err := server.NetworkAliases(t.Context())
	if err != nil || !strings.Contains(fmt.Sprint(aliases[n.Name]), "www") {
		t.Errorf("%v, %v", aliases, err)
	}
	if ip, err := server.ContainerIP(t.Context()); err != nil || ip == "" {
		t.Errorf("%q, %v", ip, err)
	}
}

func TestFilesAndExec(t *testing.T) {
	t.Parallel()
	host := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(host, []byte("of the host"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := run(t, "cat /in/reader; exec sleep 1000", tc.WithWaitStrategy(wait.ForLog("of a reader")), tc.WithFiles(
		tc.ContainerFile{HostFilePath: host, ContainerFilePath: "/in/host", FileMode: 0o640},
		tc.ContainerFile{Reader: strings.NewReader("of a reader\n"), ContainerFilePath: "/in/reader", FileMode: 0o755}))
	if out := says(t, c, "cat /in/host; stat -c ' %a' /in/host"); out != "of the host 640\n" {
		t.Errorf("%q", out)
	}
	if err := c.CopyToContainer(t.Context(), []byte("later"), "/tmp/later", 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := c.CopyFileFromContainer(t.Context(), "/tmp/later")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if text, err := io.ReadAll(r); string(text) != "later" {
		t.Errorf("%q, %v", text, err)
	}
	code, out, err := c.Exec(t.Context(), []string{"sh", "-c", "pwd; id -un; echo $WORD; exit 5"}, tcexec.Multiplexed(),
		tcexec.WithUser("nobody"), tcexec.WithWorkingDir("/tmp"), tcexec.WithEnv([]string{"WORD=said"}))
	if err != nil {
		t.Fatal(err)
	}
	if text, _ := io.ReadAll(out); code != 5 || string(text) != "/tmp\nnobody\nsaid\n" {
		t.Errorf("%d: %q", code, text)
	}
}

// listener takes what a container writes.
type listener struct {
	mu   sync.Mutex
	text map[string]string
}

func (l *listener) Accept(log tc.Log) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text[log.LogType] += string(log.Content)
}

func (l *listener) heard(stream string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text[stream]
}

func TestLogs(t *testing.T) {
	t.Parallel()
	l := &listener{text: map[string]string{}}
	c := run(t, "for i in 1 2 3; do echo out $i; echo err $i >&2; sleep 0.1; done; exec sleep 1000", tc.WithLogConsumers(l), tc.WithWaitStrategy(wait.ForLog("out 3")))
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && !strings.Contains(l.heard(tc.StderrLog), "err 3"); {
		time.Sleep(20 * time.Millisecond)
	}
	if out, errs := l.heard(tc.StdoutLog), l.heard(tc.StderrLog); out != "out 1\nout 2\nout 3\n" || errs != "err 1\nerr 2\nerr 3\n" {
		t.Errorf("%q and %q", out, errs)
	}
	r, err := c.Logs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if text, err := io.ReadAll(r); !strings.Contains(string(text), "out 2\n") || !strings.Contains(string(text), "err 2\n") {
		t.Errorf("%q, %v", text, err)
	}
}

func TestReuseStopAndTerminate(t *testing.T) {
	t.Parallel()
	name := fmt.Sprintf("tc-reused-%d", os.Getpid())
	first := run(t, "touch /mine; exec sleep 1000", tc.WithReuseByName(name), tc.WithWaitStrategy(wait.ForExec([]string{"test", "-e", "/mine"})))
	second := run(t, "exec sleep 1000", tc.WithReuseByName(name))
	if first.GetContainerID() != second.GetContainerID() {
		t.Errorf("made again, not used again: %s and %s", first.GetContainerID(), second.GetContainerID())
	}
	says(t, second, "test -e /mine")
	patience := time.Second
	if err := first.Stop(t.Context(), &patience); err != nil {
		t.Fatal(err)
	}
	if s, err := first.State(t.Context()); err != nil || s.Running {
		t.Errorf("stopped, it is %+v, %v", s, err)
	}
	if err := first.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !first.IsRunning() {
		t.Error("started, it does not run")
	}
	if err := first.Terminate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := first.State(t.Context()); err == nil {
		t.Error("terminated, it is still there")
	}
}

// A test run that ends without tidying up is tidied up after.
func TestReaper(t *testing.T) {
	t.Parallel()
	if os.Getenv(leaver) != "" {
		n, err := network.New(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		c, err := tc.Run(t.Context(), "busybox", tc.WithCmd("sleep", "1000"), network.WithNetwork(nil, n), tc.WithTmpfs(map[string]string{"/x": "rw"}))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("left:", c.GetContainerID(), n.ID)
		return
	}
	other := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestReaper$", "-test.v")
	session := fmt.Sprintf("reaped-%d-%d", os.Getpid(), time.Now().UnixNano())
	other.Env = append(os.Environ(), leaver+"=1", "TESTCONTAINERS_SESSION_ID="+session)
	out, err := other.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, rest, _ := strings.Cut(string(out), "left: ")
	var id, net string
	if _, err := fmt.Sscan(rest, &id, &net); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	docker, err := client.New(client.FromEnv)
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		_, noContainer := docker.ContainerInspect(t.Context(), id, client.ContainerInspectOptions{})
		_, noNetwork := docker.NetworkInspect(t.Context(), net, client.NetworkInspectOptions{})
		if noContainer != nil && noNetwork != nil {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not reaped: container %v, network %v", noContainer, noNetwork)
		}
	}
}
