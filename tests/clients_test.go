package tests

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// Other people's clients are put to a machine of their own. The tests of each
// are a module below tests/clients that knows nothing of gantry, only the
// daemon in DOCKER_HOST and an image named busybox: what they ask of gantry can
// be asked of Docker, too.
func TestClients(t *testing.T) {
	goTest := []string{"go", "test", "-vet=off", "-count=1", "-v", "-timeout", "5m", "-parallel", "6", "."}
	t.Run("docker", func(t *testing.T) {
		t.Parallel()
		needs(t, dockerProgram)
		newMachine(t, memory()).client("docker", "--- ", goTest...)
	})
	t.Run("moby client", func(t *testing.T) {
		t.Parallel()
		newMachine(t, memory()).client("moby", "--- ", goTest...)
	})
	t.Run("testcontainers", func(t *testing.T) {
		t.Parallel()
		newMachine(t, memory()).client("testcontainers", "--- ", goTest...)
	})
	t.Run("docker-py", func(t *testing.T) {
		t.Parallel()
		const module = "/usr/lib/python3/dist-packages/docker/__init__.py"
		needs(t, "/usr/bin/python3", module)
		newMachine(t, memory()).client("python", " ... ", "/usr/bin/python3", "-W", "ignore", "-m", "unittest", "-v")
	})
}

// composeProgram is Debian's; another in PATH may be of another make.
const composeProgram = "/usr/bin/docker-compose"

// needs skips a test where programs are not installed.
func needs(t *testing.T, files ...string) {
	t.Helper()
	for _, f := range files {
		if _, err := os.Stat(f); err != nil {
			t.Skipf("%v; run `scripts/setup test` first", err)
		}
	}
}

// dockerEnv names the machine's daemon to Docker's clients.
func (m *machine) dockerEnv() []string {
	return []string{"DOCKER_HOST=unix://" + filepath.Join(m.run, "gantry.sock"), "DOCKER_CONFIG=/nonexistent", "DOCKER_CONTEXT=", "DOCKER_API_VERSION=", "DOCKER_TLS_VERIFY="}
}

// client runs a client's tests. A line with the mark tells how one of them
// ended; those that were skipped are told with their reason.
func (m *machine) client(dir, mark string, args ...string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 6*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = filepath.Join(repo, "tests", "clients", dir)
	// They are compiled as everything is, so that what they share with it, Go's
	// library above all, is there; their go.mod names the same versions for that,
	// but of the clients.
	// GANTRY says whom they ask, to those few who may expect more of it.
	flags := regexp.MustCompile(`-modfile=\S+`).ReplaceAllLiteralString(os.Getenv("GOFLAGS"), "")
	cmd.Env = append(append(os.Environ(), m.dockerEnv()...), "GANTRY="+filepath.Join(programs, "gantry"), "GOFLAGS="+flags, "CGO_ENABLED=0", "PYTHONDONTWRITEBYTECODE=1")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	begin := time.Now()
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		m.t.Errorf("%v\n%s", err, withoutPassed(out.String()))
		return
	case err != nil:
		m.t.Fatal(err)
	}
	passed := 0
	lines := strings.Split(out.String(), "\n")
	for i, line := range lines {
		_, end, found := strings.Cut(line, mark)
		switch {
		case !found:
		case strings.HasPrefix(end, "PASS"), strings.HasPrefix(end, "ok"):
			passed++
		case strings.HasPrefix(end, "SKIP"), strings.HasPrefix(end, "skipped"):
			m.t.Log(strings.Join(lines[max(0, i-1):i+1], "\n"))
		}
	}
	if passed == 0 {
		m.t.Errorf("no test ran:\n%s", out.String())
	}
	m.t.Logf("%d tests passed in %s", passed, time.Since(begin).Round(time.Second/10))
}

// withoutPassed leaves out what is of no use to whoever looks for a failure.
func withoutPassed(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		for _, noise := range []string{"=== RUN", "=== PAUSE", "=== CONT", "=== NAME", "--- PASS"} {
			if strings.HasPrefix(strings.TrimSpace(line), noise) {
				line = ""
			}
		}
		b.WriteString(line)
	}
	return b.String()
}
