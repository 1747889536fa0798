package docker

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRun(t *testing.T) {
	t.Parallel()
	t.Run("output and exit codes", func(t *testing.T) {
		r := try(t, nil, "run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 7")
		if r.out != "out\n" || r.err != "err\n" || r.code != 7 {
			t.Error(r)
		}
		fails(t, 127, []string{"run", "--rm", "busybox", "/nosuch"}, "/nosuch")
		fails(t, 126, []string{"run", "--rm", "busybox", "/etc/passwd"}, "permission denied")
		fails(t, 125, []string{"run", "--rm", "--pull=never", "nosuch/image:1"}, "no such image")
		fails(t, 125, []string{"run", "--rm", "--memory=1k", "busybox"}, "6")
	})
	t.Run("standard input", func(t *testing.T) {
		text := strings.Repeat("0123456789abcde\n", 1<<16) // 1 MiB
		r := try(t, strings.NewReader(text), "run", "--rm", "-i", "busybox", "cat")
		if r.code != 0 || r.out != text {
			t.Errorf("%d of %d bytes came back; exit code %d: %s", len(r.out), len(text), r.code, r.err)
		}
	})
	t.Run("environment and directory", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "env")
		if err := os.WriteFile(file, []byte("FROM=file\n#not this\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		says(t, "1 file /tmp nobody box", "run", "--rm", "-e", "ONE=1", "--env-file", file, "-w", "/tmp", "-u", "nobody",
			"-h", "box", "busybox", "sh", "-c", "echo $ONE $FROM $(pwd) $(id -un) $(hostname)")
		says(t, "other words", "run", "--rm", "--entrypoint", "echo", "busybox", "other", "words")
	})
	t.Run("files", func(t *testing.T) {
		dir := t.TempDir()
		v := name(t)
		remove(t, "volume", "rm", v)
		docker(t, "run", "--rm", "-v", dir+":/host", "-v", v+":/named", "-v", "/anonymous", "--tmpfs", "/scratch:size=1m",
			"busybox", "sh", "-c", "echo here >/host/file; echo there >/named/file; touch /anonymous/x; grep ' /scratch tmpfs' /proc/mounts")
		if data, err := os.ReadFile(filepath.Join(dir, "file")); string(data) != "here\n" {
			t.Errorf("%q, %v", data, err)
		}
		says(t, "there", "run", "--rm", "--mount", "type=volume,src="+v+",dst=/v,readonly", "busybox", "cat", "/v/file")
		fails(t, 1, []string{"run", "--rm", "-v", dir + ":/host:ro", "busybox", "touch", "/host/x"}, "read-only")
		fails(t, 1, []string{"run", "--rm", "--read-only", "busybox", "touch", "/x"}, "read-only")
	})
	t.Run("an identity file and a label", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "id")
		n := name(t)
		id := docker(t, "run", "-d", "--name", n, "--cidfile", file, "--label", "who=me", "busybox", "true")
		if data, _ := os.ReadFile(file); string(data) != id || len(id) != 64 {
			t.Errorf("%q and %q", data, id)
		}
		says(t, "me", "inspect", "-f", `{{index .Config.Labels "who"}}`, n)
		fails(t, 125, []string{"run", "--name", n, "busybox"}, "already in use")
	})
	t.Run("limits", func(t *testing.T) {
		n := idle(t, "--memory", "64m", "--cpus", "0.5", "--pids-limit", "100", "--ulimit", "nofile=100:200", "--cap-drop", "ALL", "--security-opt", "no-new-privileges")
		says(t, "67108864 500000000 100", "inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}", n)
		says(t, "100 200", "exec", n, "awk", "/open files/ { print $4, $5 }", "/proc/1/limits")
		shows(t, []string{"exec", n, "cat", "/proc/1/status"}, "CapEff:\t0000000000000000", "NoNewPrivs:\t1")
		docker(t, "update", "--memory", "32m", "--memory-swap", "64m", "--restart", "on-failure:3", n)
		says(t, "33554432 on-failure 3", "inspect", "-f", "{{.HostConfig.Memory}} {{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}", n)
	})
	t.Run("removed with its volumes", func(t *testing.T) {
		n := name(t)
		docker(t, "run", "-d", "--rm", "--name", n, "-v", "/gone", "--stop-signal", "KILL", "busybox", "sleep", "1000")
		v := docker(t, "inspect", "-f", "{{(index .Mounts 0).Name}}", n)
		docker(t, "stop", n)
		eventually(t, "it is gone", func() bool { return try(t, nil, "inspect", n).code == 1 })
		eventually(t, "its volume, too", func() bool { return try(t, nil, "volume", "inspect", v).code == 1 })
	})
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	t.Run("run -it", func(t *testing.T) {
		n := name(t)
		x := terminal(t, "run", "-it", "--rm", "--name", n, "busybox", "sh")
		x.reads("# ")
		eventually(t, "the terminal has its size", func() bool {
			x.types("stty size\r")
			return strings.Contains(x.text(), "33 101")
		})
		x.types("echo one$((1+1))three; exit 5\r")
		x.reads("one2three")
		x.ends(5)
	})
	t.Run("leave and come back", func(t *testing.T) {
		n := name(t)
		x := terminal(t, "run", "-it", "--name", n, "busybox", "sh")
		x.reads("# ") // the keys below are for a terminal that is the container's already
		x.types("word=kept\r")
		x.types("\x10\x11")
		x.ends(0)
		says(t, "running true", "inspect", "-f", "{{.State.Status}} {{.Config.Tty}}", n)
		y := terminal(t, "attach", "--detach-keys", "ctrl-a,d", n)
		y.types("echo it is $word\r")
		y.reads("it is kept")
		y.types("\x01d")
		y.ends(1) // this client takes its own sequence for an error
		z := terminal(t, "attach", n)
		z.types("exit 3\r")
		z.ends(3)
		says(t, "exited 3", "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", n)
		w := terminal(t, "start", "-ai", n)
		w.types("echo again$((2*21))\r")
		w.reads("again42")
		w.types("exit\r")
		w.ends(0)
	})
	t.Run("exec -it", func(t *testing.T) {
		n := idle(t)
		x := terminal(t, "exec", "-it", "-e", "WORD=said", n, "sh")
		x.types("tty; stty size; echo $WORD$((40+2))\r")
		x.reads("/dev/pts/")
		x.reads("33 101")
		x.reads("said42")
		x.types("exit 9\r")
		x.ends(9)
	})
	t.Run("attach without one", func(t *testing.T) {
		n := name(t)
		docker(t, "create", "-i", "--name", n, "busybox", "sh", "-c", "while read line; do echo got $line; done; echo end; exit 4")
		x := follow(t, "start", "-ai", n)
		x.types("words\n")
		x.reads("got words")
		x.in.Close()
		x.reads("end")
		x.ends(4)
	})
}

func TestExec(t *testing.T) {
	t.Parallel()
	n := idle(t, "-e", "OWN=1", "-w", "/etc")
	r := try(t, strings.NewReader("words\n"), "exec", "-i", n, "sh", "-c", "cat; echo err >&2; exit 3")
	if r.out != "words\n" || r.err != "err\n" || r.code != 3 {
		t.Error(r)
	}
	says(t, "1 2 /tmp nobody", "exec", "-e", "MORE=2", "-w", "/tmp", "-u", "nobody", n, "sh", "-c", "echo $OWN $MORE $(pwd) $(id -un)")
	says(t, "/etc", "exec", n, "pwd")
	docker(t, "exec", "-d", n, "touch", "/tmp/detached")
	eventually(t, "the detached command has run", func() bool { return try(t, nil, "exec", n, "test", "-e", "/tmp/detached").code == 0 })
	if r := try(t, nil, "exec", n, "/nosuch"); r.code != 126 && r.code != 127 || !strings.Contains(r.out+r.err, "/nosuch") {
		t.Error(r)
	}
	docker(t, "stop", n)
	fails(t, 1, []string{"exec", n, "true"}, "is not running")
	fails(t, 1, []string{"exec", "nosuch-container", "true"}, "No such container: nosuch-container")
}

func TestLife(t *testing.T) {
	t.Parallel()
	n := name(t)
	state := func(want string) {
		t.Helper()
		says(t, want, "inspect", "-f", "{{.State.Status}} {{.State.Running}} {{.State.Paused}} {{.State.ExitCode}}", n)
	}
	docker(t, "create", "--name", n, "busybox", "sh", "-c", "trap 'exit 6' TERM; trap 'exit 9' USR1; echo begun; while :; do sleep 0.05; done")
	state("created false false 0")
	says(t, n, "start", n)
	state("running true false 0")
	says(t, n, "start", n) // once more is no error
	docker(t, "pause", n)
	state("paused true true 0")
	fails(t, 1, []string{"pause", n}, "paused")
	fails(t, 1, []string{"exec", n, "true"}, "is paused")
	docker(t, "unpause", n)
	fails(t, 1, []string{"unpause", n}, "not paused")
	state("running true false 0")
	eventually(t, "it has begun", func() bool { return docker(t, "logs", n) == "begun" })
	docker(t, "stop", n)
	state("exited false false 6")
	docker(t, "restart", n)
	state("running true false 0")
	first := docker(t, "inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", n)
	docker(t, "restart", "-t", "1", n)
	if docker(t, "inspect", "-f", "{{.State.StartedAt}} {{.State.Pid}}", n) == first {
		t.Error("restarted, it is the same process")
	}
	eventually(t, "it has begun again", func() bool { return docker(t, "logs", n) == "begun\nbegun\nbegun" })
	docker(t, "kill", "-s", "USR1", n)
	says(t, "9", "wait", n)
	fails(t, 1, []string{"kill", n}, "is not running")
	docker(t, "start", n)
	w := follow(t, "wait", n)
	docker(t, "kill", n)
	w.ends(0)
	if strings.TrimSpace(w.text()) != "137" {
		t.Errorf("wait said %q", w.text())
	}
	other := name(t)
	docker(t, "rename", n, other)
	fails(t, 1, []string{"inspect", n}, "no such object")
	says(t, "/"+other, "inspect", "-f", "{{.Name}}", other)
	docker(t, "start", other)
	fails(t, 1, []string{"rm", other}, "running")
	docker(t, "rm", "-f", other)
	fails(t, 1, []string{"stop", other}, "no such container")
}

func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	n := name(t)
	docker(t, "run", "-d", "--name", n, "--restart", "on-failure:2", "busybox", "false")
	eventually(t, "it was tried three times", func() bool {
		return docker(t, "inspect", "-f", "{{.RestartCount}} {{.State.Status}}", n) == "2 exited"
	})
	m := name(t)
	docker(t, "run", "-d", "--name", m, "--restart", "always", "busybox", "sleep", "1000")
	docker(t, "exec", m, "kill", "-9", "1")
	docker(t, "kill", m)
	time.Sleep(300 * time.Millisecond)
	says(t, "exited", "inspect", "-f", "{{.State.Status}}", m) // killed by a call, it stays down
}

func TestHealth(t *testing.T) {
	t.Parallel()
	n := idle(t, "--health-cmd", "test -e /healthy", "--health-interval", "200ms", "--health-retries", "2")
	status := func() string { return docker(t, "inspect", "-f", "{{.State.Health.Status}}", n) }
	eventually(t, "it is unhealthy", func() bool { return status() == "unhealthy" })
	shows(t, []string{"ps", "--filter", "name=" + n, "--format", "{{.Status}}"}, "(unhealthy)")
	docker(t, "exec", n, "touch", "/healthy")
	eventually(t, "it is healthy", func() bool { return status() == "healthy" })
	says(t, n, "ps", "--filter", "name="+n, "--filter", "health=healthy", "--format", "{{.Names}}")
	says(t, "0", "inspect", "-f", "{{.State.Health.FailingStreak}}", n)
}

func TestPs(t *testing.T) {
	t.Parallel()
	mark := "mark=" + name(t)
	up := idle(t, "-l", mark, "-l", "kind=up", "-p", "127.0.0.1::80")
	down := name(t)
	fails(t, 3, []string{"run", "--name", down, "-l", mark, "busybox", "sh", "-c", "exit 3"})
	made := name(t)
	docker(t, "create", "--name", made, "-l", mark, "--expose", "99", "busybox", "echo", "a long command with many words")
	list := func(want string, filters ...string) {
		t.Helper()
		args := []string{"ps", "-a", "--format", "{{.Names}}", "--filter", "label=" + mark}
		for _, f := range filters {
			args = append(args, "--filter", f)
		}
		says(t, want, args...)
	}
	list(made + "\n" + down + "\n" + up)
	list(up, "status=running")
	list(down, "exited=3")
	list(made+"\n"+up, "status=created", "status=running")
	list(up, "label=kind")
	list(up, "label=kind=up")
	list("", "label=kind=down")
	list(down, "name="+down)
	list(up, "id="+docker(t, "inspect", "-f", "{{.Id}}", up)[:8])
	list(made+"\n"+down, "since="+up)
	list(up, "before="+down)
	list(made+"\n"+down+"\n"+up, "ancestor=busybox")
	port := docker(t, "port", up, "80/tcp")
	list(up, "publish="+port[strings.LastIndexByte(port, ':')+1:])
	list("", "publish=80") // which is the container's side
	list(up, "expose=80")
	list("", "volume=/nowhere")
	says(t, up, "ps", "--filter", "label="+mark, "--format", "{{.Names}}")
	says(t, docker(t, "inspect", "-f", "{{.Id}}", up), "ps", "-q", "--no-trunc", "--filter", "label="+mark)
	says(t, `busybox|"sleep 1000"|`+port+"->80/tcp|up", "ps", "--filter", "label="+mark, "--format", `{{.Image}}|{{.Command}}|{{.Ports}}|{{.Label "kind"}}`)
	shows(t, []string{"ps", "-a", "--filter", "label=" + mark}, "CONTAINER ID", "Exited (3)", "Created", "Up ", `"echo 'a long comman`)
	fails(t, 1, []string{"ps", "--filter", "nosuch=1"}, "invalid filter")
	fails(t, 1, []string{"ps", "--filter", "status=nosuch"}, "nosuch")
	if out := docker(t, "ps", "-aq", "-n", "2"); strings.Count(out, "\n") != 1 {
		t.Errorf("the last two: %q", out)
	}
	shows(t, []string{"ps", "-as", "--filter", "name=" + up}, "virtual")
}

func TestInspect(t *testing.T) {
	t.Parallel()
	n := idle(t, "-p", "127.0.0.1::8080/udp", "-v", "/data", "--restart", "unless-stopped", "--dns", "192.0.2.53", "--add-host", "db:192.0.2.1", "-e", "A=b")
	for format, want := range map[string]string{
		"{{.Path}} {{join .Args \",\"}}":     "sleep 1000",
		"{{.Config.Image}}":                  "busybox",
		"{{.HostConfig.RestartPolicy.Name}}": "unless-stopped",
		"{{json .HostConfig.Dns}}":           `["192.0.2.53"]`,
		"{{json .HostConfig.ExtraHosts}}":    `["db:192.0.2.1"]`,
		"{{(index .Mounts 0).Destination}}":  "/data",
		"{{(index .Mounts 0).Driver}}":       "local",
		"{{(index .Mounts 0).RW}}":           "true",
		"{{len .Id}} {{len .Image}}":         "64 71",
		"{{range $k, $v := .NetworkSettings.Ports}}{{$k}} {{(index $v 0).HostIp}}{{end}}": "8080/udp 127.0.0.1",
		"{{range $k, $v := .NetworkSettings.Networks}}{{$k}}{{end}}":                      "bridge",
		"{{eq .NetworkSettings.IPAddress .NetworkSettings.Networks.bridge.IPAddress}}":    "true",
		"{{.State.OOMKilled}} {{.State.Error}}":                                           "false ",
		"{{.HostConfig.LogConfig.Type}}":                                                  "json-file",
		"{{.Driver}}":                                                                     docker(t, "info", "-f", "{{.Driver}}"),
	} {
		says(t, want, "inspect", "-f", format, n)
	}
	says(t, "container", "inspect", "--type", "container", "-f", "container", n)
	says(t, "/"+n+"\n/"+n, "inspect", "-f", "{{.Name}}", n, docker(t, "inspect", "-f", "{{.Id}}", n)[:12])
	fails(t, 1, []string{"container", "inspect", "nosuch"}, "No such container: nosuch")
	docker(t, "exec", n, "sh", "-c", "head -c 100000 /dev/zero >/big")
	if size := atoi(t, docker(t, "inspect", "-s", "-f", "{{.SizeRw}}", n)); size < 100_000 {
		t.Errorf("it has written 100000 bytes, and takes %d", size)
	}
	shows(t, []string{"exec", n, "cat", "/etc/hosts"}, "192.0.2.1\tdb")
}

// freePort is a port that nobody listens on.
func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// serves waits until a container's web server answers on a port.
func serves(t testing.TB, address, want string) {
	t.Helper()
	c := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	eventually(t, address+" answers", func() bool {
		resp, err := c.Get("http://" + address + "/")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body) == want
	})
}

func TestPorts(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	n := name(t)
	docker(t, "run", "-d", "--name", n, "-p", fmt.Sprintf("%d:80", port), "-p", "127.0.0.1::81", "--stop-signal", "KILL",
		"busybox", "sh", "-c", "mkdir /www; echo hello >/www/index.html; httpd -p 81 -h /www; exec httpd -f -p 80 -h /www")
	serves(t, fmt.Sprintf("127.0.0.1:%d", port), "hello\n")
	second := docker(t, "port", n, "81")
	serves(t, second, "hello\n")
	shows(t, []string{"port", n}, fmt.Sprintf("80/tcp -> 0.0.0.0:%d", port), "81/tcp -> "+second)
	fails(t, 1, []string{"port", n, "99"}, "no public port")
	m := name(t)
	fails(t, 125, []string{"run", "-d", "--name", m, "-p", fmt.Sprintf("%d:80", port), "busybox", "true"}, fmt.Sprint(port))
	docker(t, "stop", n)
	if _, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second); err == nil {
		t.Error("stopped, its port still answers")
	}
	p := name(t)
	docker(t, "run", "-d", "-P", "--expose", "80", "--name", p, "--stop-signal", "KILL", "busybox", "sh", "-c", "mkdir /www; echo all >/www/index.html; exec httpd -f -p 80 -h /www")
	serves(t, strings.Replace(strings.Split(docker(t, "port", p, "80"), "\n")[0], "0.0.0.0", "127.0.0.1", 1), "all\n")
}
