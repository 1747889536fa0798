package recorded

import (
	"cmp"
	"context"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const testdata = "testdata"

// TestReplay has a gantryd answer what dockerd has answered.
func TestReplay(t *testing.T) {
	scenes, err := Scenes(testdata)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ReadAccepted(filepath.Join(testdata, "differences.txt"))
	if err != nil {
		t.Fatal(err)
	}
	p := daemon(t)
	requests, alike := 0, 0
	for _, s := range scenes {
		t.Run(s.Name, func(t *testing.T) {
			begin := time.Now()
			got, err := p.Play(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range Compare(s, got) {
				if !accepted.Explain(d) {
					t.Errorf("not like Docker:\n%s", d)
				}
			}
			for i, x := range s.Exchanges {
				requests++
				if len(compareAnswers(x.Answer, got.Exchanges[i].Answer)) == 0 {
					alike++
				}
			}
			t.Logf("%d requests in %s", len(s.Exchanges), time.Since(begin).Round(time.Millisecond))
			// To look at in full.
			if dir := os.Getenv("GANTRY_ANSWERS"); dir != "" {
				if err := os.WriteFile(filepath.Join(dir, s.Name+".scene"), []byte(got.String()), 0o644); err != nil {
					t.Error(err)
				}
			}
		})
	}
	t.Logf("%d of %d answers are Docker's to the letter", alike, requests)
	if t.Failed() || strings.Contains(flag.Lookup("test.run").Value.String(), "/") {
		return // not all of them were asked
	}
	for _, d := range accepted.Unused() {
		t.Errorf("listed as a difference, and is none any more: %s", d)
	}
}

// A scene's file is what its scene writes.
func TestScenesAreWrittenAsTheyAreRead(t *testing.T) {
	scenes, err := Scenes(testdata)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scenes {
		text, err := os.ReadFile(filepath.Join(testdata, s.Name+".scene"))
		if err != nil {
			t.Fatal(err)
		}
		if s.String() != string(text) {
			t.Errorf("%s: reading and writing changes it", s.Name)
		}
		for _, x := range s.Exchanges {
			if x.Answer.Status == "" {
				t.Errorf("%s: %s: has no answer; record it", s.Name, x.Key())
			}
		}
	}
}

// daemon starts a gantryd with directories of its own, which end with the test.
func daemon(t *testing.T) *Player {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces, cgroups and nftables")
	}
	repo, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(cmp.Or(os.Getenv("GANTRY_BIN"), filepath.Join(repo, "bin")), "gantry")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("%v; run `make build` first", err)
	}
	busybox := filepath.Join(repo, "build", "images", "busybox.tar")
	if _, err := os.Stat(busybox); err != nil {
		t.Fatalf("%v; run `scripts/images build/images busybox` first", err)
	}
	// Short, since sockets below it have 107 bytes for their names.
	dir, err := os.MkdirTemp("", "gr-")
	if err != nil {
		t.Fatal(err)
	}
	root, run := filepath.Join(dir, "root"), filepath.Join(dir, "run")
	// Docker was recorded without a network: no registry is reached here, either.
	certs := filepath.Join(dir, "certs", "_default")
	if err := os.MkdirAll(certs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(certs, "hosts.toml"), []byte("server = \"http://127.0.0.1:1\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	gantry := func(args ...string) {
		cmd := exec.CommandContext(context.Background(), program, args...)
		cmd.Env = append(os.Environ(), "GANTRY_ROOT="+root, "GANTRY_RUN="+run, "GANTRY_CERTS="+filepath.Dir(certs), "GANTRY_HOST=", "DOCKER_HOST=")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("gantry %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	p := &Player{Socket: filepath.Join(run, "gantry.sock"), Busybox: busybox, Root: root}
	t.Cleanup(func() {
		if err := p.Clear(context.Background()); err != nil {
			t.Error(err)
		}
		gantry("daemon", "stop")
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	gantry("daemon", "start")
	return p
}
