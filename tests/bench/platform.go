package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// platform is a thing that runs stacks: gantry, or Docker with Docker Compose.
// Both have a command that knows compose files, and speak Docker's API on a
// socket, so that all scenes are the same for both.
type platform struct {
	name    string // its column
	about   string // versions
	command []string
	image   []string // command for images
	build   []string // and what builds one
	env     []string // instead of the environment
	enter   []string // command to run another where its published ports are
	mark    string   // what the command lines of its processes hold
	helpers []string // programs of its own that do not hold it, but are children of those that do
	client  *http.Client
	close   func() error
}

const apiVersion = "/v1.41"

// dialAPI makes the client of an API on a socket.
func dialAPI(socket string) *http.Client {
	var d net.Dialer
	return &http.Client{Transport: &http.Transport{
		DisableCompression: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return d.DialContext(ctx, "unix", socket)
		},
	}}
}

// call makes an API call; a body that is not nil travels as JSON, and so does
// the answer.
func (p *platform) call(ctx context.Context, method, path string, body, answer any) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var r io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return err
		}
		r = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://api"+path, r)
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return fmt.Errorf("%s %s: %w", method, path, err)
	case resp.StatusCode >= 400:
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, bytes.TrimSpace(text))
	case answer == nil:
		return nil
	}
	return json.Unmarshal(text, answer)
}

// stack runs the platform's compose command in a directory and says how long
// it took.
func (p *platform) stack(ctx context.Context, dir string, args ...string) (time.Duration, error) {
	took, _, err := p.stackOutput(ctx, dir, args...)
	return took, err
}

// stackOutput is stack with what the command wrote to standard error.
func (p *platform) stackOutput(ctx context.Context, dir string, args ...string) (time.Duration, string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, p.command[0], append(p.command[1:len(p.command):len(p.command)], args...)...)
	cmd.Dir, cmd.Env = dir, p.env
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	began := time.Now()
	err := cmd.Run()
	took := time.Since(began)
	if err != nil {
		return took, errs.String(), fmt.Errorf("%s %s: %w: %s", filepath.Base(cmd.Path), strings.Join(args, " "), err, tail(out.String()+errs.String()))
	}
	return took, errs.String(), nil
}

// running counts the live containers of a project.
func (p *platform) running(ctx context.Context, project string) (int, error) {
	filters, err := json.Marshal(map[string][]string{"label": {"com.docker.compose.project=" + project}})
	if err != nil {
		return 0, err
	}
	var list []struct{ State string }
	err = p.call(ctx, http.MethodGet, apiVersion+"/containers/json?filters="+url.QueryEscape(string(filters)), nil, &list)
	return len(list), err
}

// containerOf is the id of a project's container.
func (p *platform) containerOf(ctx context.Context, project string) (string, error) {
	var list []struct {
		ID     string
		Labels map[string]string
	}
	if err := p.call(ctx, http.MethodGet, apiVersion+"/containers/json", nil, &list); err != nil {
		return "", err
	}
	for _, c := range list {
		if c.Labels["com.docker.compose.project"] == project {
			return c.ID, nil
		}
	}
	return "", fmt.Errorf("project %s has no running container", project)
}

// address is a project's container's own.
func (p *platform) address(ctx context.Context, project string) (string, error) {
	id, err := p.containerOf(ctx, project)
	if err != nil {
		return "", err
	}
	var c struct {
		NetworkSettings struct {
			Networks map[string]struct{ IPAddress string }
		}
	}
	err = p.call(ctx, http.MethodGet, apiVersion+"/containers/"+id+"/json", nil, &c)
	for _, n := range c.NetworkSettings.Networks {
		if n.IPAddress != "" {
			return n.IPAddress, err
		}
	}
	return "", errors.Join(err, fmt.Errorf("container %s has no address", id))
}

// wish is what the API is asked for: the parts of Docker's request that scenes
// need.
type wish struct {
	Image      string
	Cmd        []string
	HostConfig struct {
		Binds         []string `json:",omitempty"`
		NetworkMode   string   `json:",omitempty"`
		SecurityOpt   []string `json:",omitempty"`
		RestartPolicy struct{ Name string }
	}
}

func (p *platform) create(ctx context.Context, w wish) (id string, err error) {
	var made struct{ ID string }
	err = p.call(ctx, http.MethodPost, apiVersion+"/containers/create", w, &made)
	return made.ID, err
}

func (p *platform) start(ctx context.Context, id string) error {
	return p.call(ctx, http.MethodPost, apiVersion+"/containers/"+id+"/start", nil, nil)
}

func (p *platform) wait(ctx context.Context, id string) error {
	var ended struct{ StatusCode int }
	if err := p.call(ctx, http.MethodPost, apiVersion+"/containers/"+id+"/wait", nil, &ended); err != nil {
		return err
	}
	if ended.StatusCode != 0 {
		return fmt.Errorf("container %s ended with code %d", id, ended.StatusCode)
	}
	return nil
}

func (p *platform) remove(ctx context.Context, id string) error {
	return p.call(ctx, http.MethodDelete, apiVersion+"/containers/"+id+"?force=1&v=1", nil, nil)
}

// pid is the process of a container, as the host knows it.
func (p *platform) pid(ctx context.Context, id string) (int, error) {
	var c struct{ State struct{ Pid int } }
	err := p.call(ctx, http.MethodGet, apiVersion+"/containers/"+id+"/json", nil, &c)
	if err == nil && c.State.Pid <= 0 {
		err = fmt.Errorf("container %s has no process", id)
	}
	return c.State.Pid, err
}

// exec runs a command in a container to its end.
func (p *platform) exec(ctx context.Context, id string, command ...string) error {
	var made struct{ ID string }
	err := p.call(ctx, http.MethodPost, apiVersion+"/containers/"+id+"/exec",
		map[string]any{"Cmd": command, "AttachStdout": true, "AttachStderr": true}, &made)
	if err != nil {
		return err
	}
	// The answer is what the command writes, and ends with it.
	if err := p.call(ctx, http.MethodPost, apiVersion+"/exec/"+made.ID+"/start", map[string]any{}, nil); err != nil {
		return err
	}
	var x struct {
		ExitCode *int
		Running  bool
	}
	if err := p.call(ctx, http.MethodGet, apiVersion+"/exec/"+made.ID+"/json", nil, &x); err != nil {
		return err
	}
	if x.ExitCode == nil || *x.ExitCode != 0 {
		return fmt.Errorf("exec %s: it did not end well", strings.Join(command, " "))
	}
	return nil
}

// processes of the platform itself, not of its containers.
func (p *platform) processes() []int {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	own := map[int]bool{}
	var all []int
	for _, d := range dirs {
		line, _ := os.ReadFile(filepath.Join(d, "cmdline"))
		pid, _ := strconv.Atoi(filepath.Base(d))
		if pid != os.Getpid() && strings.Contains(string(line), p.mark) {
			own[pid] = true
			all = append(all, pid)
		}
	}
	for _, d := range dirs {
		stat, _ := os.ReadFile(filepath.Join(d, "stat"))
		pid, name, parent := parseStat(string(stat))
		for _, h := range p.helpers {
			if !own[pid] && own[parent] && name == h {
				all = append(all, pid)
			}
		}
	}
	return all
}

// parseStat reads pid, name and parent, see proc_pid_stat(5).
func parseStat(text string) (pid int, name string, parent int) {
	open, end := strings.IndexByte(text, '('), strings.LastIndexByte(text, ')')
	if open < 0 || end < open {
		return 0, "", 0
	}
	pid, _ = strconv.Atoi(strings.TrimSpace(text[:open]))
	if f := strings.Fields(text[end+1:]); len(f) > 1 {
		parent, _ = strconv.Atoi(f[1])
	}
	return pid, text[open+1 : end], parent
}

// memory is what the platform's processes take, in MB: pages resident, and
// with pages that several share split among them.
func (p *platform) memory() (rss, pss float64, err error) {
	pids := p.processes()
	if len(pids) == 0 {
		return 0, 0, fmt.Errorf("memory of %s: none of its processes found", p.name)
	}
	for _, pid := range pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			continue // it has ended
		}
		rss += smaps(string(text), "Rss:")
		pss += smaps(string(text), "Pss:")
	}
	return rss, pss, nil
}

// smaps reads a field of proc_pid_smaps(5), in MB.
func smaps(text, field string) float64 {
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == field {
			kb, _ := strconv.ParseFloat(f[1], 64)
			return kb * 1024 / 1e6
		}
	}
	return 0
}

// environ is this program's environment without what would lead a compose
// command elsewhere.
func environ(more ...string) []string {
	var env []string
	for _, e := range os.Environ() {
		name, _, _ := strings.Cut(e, "=")
		if !strings.HasPrefix(name, "DOCKER_") && !strings.HasPrefix(name, "COMPOSE_") && !strings.HasPrefix(name, "GANTRY_") {
			env = append(env, e)
		}
	}
	return append(env, more...)
}

// tail is the end of what a program has said.
func tail(text string) string {
	text = strings.TrimSpace(text)
	return text[max(0, len(text)-600):]
}
