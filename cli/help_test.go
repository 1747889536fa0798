package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"gantry/client"
	"gantry/scheduler"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// result is what a run of the program left behind.
type result struct {
	code     int
	out, err string
}

// run runs the program with an environment of its own.
func run(t *testing.T, env map[string]string, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	a := &app{version: Version{Number: "1.2.3", Commit: "abc"}, in: strings.NewReader(""), out: &out, err: &errs,
		env: func(name string) string { return env[name] }}
	for k, v := range env {
		a.environ = append(a.environ, k+"="+v)
	}
	code := a.run(t.Context(), args)
	return result{code, out.String(), errs.String()}
}

// fakeDaemon answers what commands ask, from fixed answers by "METHOD /path",
// and remembers what it was asked.
type fakeDaemon struct {
	host    string
	answers map[string]http.HandlerFunc

	mu    sync.Mutex
	asked []string
}

func newDaemon(t *testing.T) *fakeDaemon {
	t.Helper()
	d := &fakeDaemon{answers: map[string]http.HandlerFunc{}}
	path := filepath.Join(t.TempDir(), "gantry.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	d.host = "unix://" + path
	srv := &http.Server{Handler: d}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // ends by Close
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return d
}

func (d *fakeDaemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Server", "gantry/fake")
	key := r.Method + " " + r.URL.Path
	d.mu.Lock()
	d.asked = append(d.asked, key)
	answer := d.answers[key]
	d.mu.Unlock()
	if answer == nil && strings.HasSuffix(key, "/place") { // no project is another place's
		fmt.Fprint(w, "{}")
		return
	}
	if answer == nil {
		w.WriteHeader(http.StatusNotFound)
		fmt.Fprintf(w, `{"message":"no such thing: %s"}`, r.URL.Path)
		return
	}
	answer(w, r)
}

// say fixes an answer in JSON.
func (d *fakeDaemon) say(key string, v any) {
	d.answers[key] = func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(v) }
}

// changed are the calls that were more than looking.
func (d *fakeDaemon) changed() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, a := range d.asked {
		if !strings.HasPrefix(a, "GET ") && !strings.HasSuffix(a, "/plan") {
			out = append(out, a)
		}
	}
	return out
}

// container is one of a project as the daemon lists it.
func container(project, service string, number int, state string) client.Container {
	name := fmt.Sprintf("%s-%s-%d", project, service, number)
	c := client.Container{
		ID: strings.Repeat(fmt.Sprintf("%x", len(service)*16+number), 32), Names: []string{"/" + name}, Image: "busybox",
		Status:  map[string]string{"running": "Up 2 minutes", "exited": "Exited (3) 5 seconds ago"}[state],
		Command: "sh -c 'sleep 1000; exit'",
		Labels: map[string]string{scheduler.LabelProject: project, scheduler.LabelService: service,
			scheduler.LabelNumber: fmt.Sprint(number), scheduler.LabelOneOff: "False"},
	}
	_ = json.Unmarshal([]byte(strconv.Quote(state)), &c.State) // its type is named in the client alone
	return c
}

// composeFile writes a compose file and returns its path.
func composeFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "compose.yaml")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
