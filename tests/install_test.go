package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// make install puts everything in its place, and uninstall takes it all away.
func TestInstall(t *testing.T) {
	t.Parallel()
	dest := t.TempDir()
	run := func(target string) {
		t.Helper()
		// What is built is installed; building is not this test's.
		cmd := exec.Command("make", "-o", "build", target, "DESTDIR="+dest, "PREFIX=/usr/local", "BIN="+programs)
		cmd.Dir = repo
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make %s: %v\n%s", target, err, out)
		}
	}
	files := func() (all []string) {
		t.Helper()
		err := filepath.WalkDir(dest, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				all = append(all, strings.TrimPrefix(path, dest))
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	run("install")
	got := files()
	for _, want := range []string{
		"/usr/local/bin/gantry", "/usr/local/bin/gantryd", "/usr/local/bin/gantry-runtime", "/usr/local/bin/gantry-registry",
		"/usr/local/share/bash-completion/completions/gantry", "/usr/local/share/zsh/site-functions/_gantry", "/usr/local/share/fish/vendor_completions.d/gantry.fish",
		"/usr/local/share/man/man1/gantry.1", "/usr/local/share/man/man1/gantry-up.1",
		"/etc/systemd/system/gantryd.service",
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing", want)
		}
	}
	for _, path := range got {
		if st, err := os.Stat(filepath.Join(dest, path)); err != nil || st.Size() == 0 {
			t.Errorf("%s: %v, empty", path, err)
		}
	}
	if out, err := exec.Command(filepath.Join(dest, "usr/local/bin/gantry"), "version").CombinedOutput(); err != nil || !strings.Contains(strings.ToLower(string(out)), "gantry") {
		t.Errorf("the installed program: %v\n%s", err, out)
	}
	if out, err := exec.Command("bash", "-n", filepath.Join(dest, "usr/local/share/bash-completion/completions/gantry")).CombinedOutput(); err != nil {
		t.Errorf("completion for bash: %v\n%s", err, out)
	}
	unit, err := os.ReadFile(filepath.Join(dest, "etc/systemd/system/gantryd.service"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ExecStart=/usr/local/bin/gantryd", "Type=notify", "Delegate=yes", "KillMode=process"} {
		if !strings.Contains(string(unit), want) {
			t.Errorf("%s is not in the unit:\n%s", want, unit)
		}
	}
	run("uninstall")
	if left := files(); len(left) > 0 {
		t.Errorf("left after uninstall: %v", left)
	}
}

// Completion knows the services of the project at hand.
func TestCompletion(t *testing.T) {
	t.Parallel()
	m := bareMachine(t)
	dir := m.project("complete", "services: {alpha: {image: busybox}, beta: {image: busybox}}")
	for _, verb := range []string{"up", "logs", "exec", "stop", "scale", "restart"} {
		if out := m.in(dir, "__complete", verb, "").out; !strings.Contains(out, "alpha") || !strings.Contains(out, "beta") {
			t.Errorf("%s: %s", verb, out)
		}
	}
	if out := m.in(dir, "__complete", "").out; !strings.Contains(out, "up\t") || !strings.Contains(out, "plan\t") {
		t.Errorf("commands: %s", out)
	}
}
