package client

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/registry"
)

// loginsIn reads logins of a directory with the given file.
func loginsIn(t *testing.T, text string) (*Logins, string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	path := filepath.Join(dir, "config.json")
	if text != "" {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l, err := LoadLogins()
	if err != nil {
		t.Fatal(err)
	}
	return l, path
}

func TestServer(t *testing.T) {
	for in, want := range map[string]string{
		"": hub, "docker.io": hub, "https://index.docker.io/v1/": hub, "registry-1.docker.io": hub,
		"localhost:5000": "localhost:5000", "https://reg.example.com/v2/": "reg.example.com", "http://a:1": "a:1",
	} {
		if got := Server(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestLogins(t *testing.T) {
	ctx := t.Context()
	l, path := loginsIn(t, `{"auths":{"https://index.docker.io/v1/":{"auth":"YW5uYTpodW50ZXIy"},"reg.example.com":{"auth":"YTo=","identitytoken":"tok"}},"psFormat":"x","proxies":{"a":{"b":1}}}`)
	if a, err := l.For(ctx, hub); err != nil || a.Username != "anna" || a.Password != "hunter2" {
		t.Errorf("%v %v", a.Username, err)
	}
	if a, err := l.For(ctx, "reg.example.com"); err != nil || a.IdentityToken != "tok" {
		t.Errorf("%v", err)
	}
	if a, err := l.For(ctx, "other:5000"); err != nil || a != (registry.AuthConfig{ServerAddress: "other:5000"}) {
		t.Errorf("nobody's: %v", err)
	}
	if where, err := l.Keep(ctx, registry.AuthConfig{ServerAddress: "other:5000", Username: "bob", Password: "s:e:c"}); err != nil || where != path {
		t.Fatal(where, err)
	}
	st, err := os.Stat(path)
	if err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", st.Mode(), err)
	}
	if l, err = LoadLogins(); err != nil {
		t.Fatal(err)
	}
	if a, err := l.For(ctx, "other:5000"); err != nil || a.Username != "bob" || a.Password != "s:e:c" {
		t.Errorf("kept: %v %v", a.Username, err)
	}
	// What is not ours in the file stays.
	var doc map[string]json.RawMessage
	text, _ := os.ReadFile(path)
	if err := json.Unmarshal(text, &doc); err != nil || string(doc["psFormat"]) != `"x"` || !strings.Contains(string(doc["proxies"]), `"b"`) {
		t.Errorf("%s %v", text, err)
	}
	if found, err := l.Forget(ctx, hub); err != nil || !found {
		t.Errorf("%v %v", found, err)
	}
	if found, err := l.Forget(ctx, hub); err != nil || found {
		t.Errorf("twice: %v %v", found, err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".config*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestLoginsRefused(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("DOCKER_CONFIG", dir)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"auths": {"x": {"auth": "hunter2"`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadLogins(); !errdefs.IsInvalidArgument(err) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("no JSON: %v", err)
	}
	l, _ := loginsIn(t, `{"auths": {"x:1": {"auth": "%%%"}}}`)
	if _, err := l.For(t.Context(), "x:1"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "gantry login") {
		t.Errorf("no base64: %v", err)
	}
	l, _ = loginsIn(t, `{"credsStore": "not-there"}`)
	if _, err := l.For(t.Context(), "x:1"); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "docker-credential-not-there") {
		t.Errorf("no helper: %v", err)
	}
	l, _ = loginsIn(t, `{"credsStore": "../../bin/sh"}`)
	if _, err := l.For(t.Context(), "x:1"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("a path for a helper: %v", err)
	}
}

// A helper is told what it is about on its input, never by arguments.
func TestCredentialHelper(t *testing.T) {
	ctx := t.Context()
	bin := t.TempDir()
	script := `#!/bin/sh
echo "$@" >>"` + bin + `/args"
case $1 in
store) cat >"` + bin + `/kept" ;;
get) test -e "` + bin + `/kept" || { echo "credentials not found in native keychain"; exit 1; }; cat "` + bin + `/kept" ;;
erase) rm "` + bin + `/kept" ;;
esac
`
	if err := os.WriteFile(filepath.Join(bin, "docker-credential-test"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	l, path := loginsIn(t, `{"credHelpers": {"reg:1": "test"}}`)
	if a, err := l.For(ctx, "reg:1"); err != nil || a.Username != "" {
		t.Fatalf("%v %v", a.Username, err)
	}
	where, err := l.Keep(ctx, registry.AuthConfig{ServerAddress: "reg:1", Username: "anna", Password: "hunter2"})
	if err != nil || where != "docker-credential-test" {
		t.Fatal(where, err)
	}
	if a, err := l.For(ctx, "reg:1"); err != nil || a.Username != "anna" || a.Password != "hunter2" {
		t.Errorf("%v %v", a.Username, err)
	}
	for _, name := range []string{path, filepath.Join(bin, "args")} {
		text, err := os.ReadFile(name)
		if err != nil || strings.Contains(string(text), "hunter2") {
			t.Errorf("%s: %s %v", name, text, err)
		}
	}
	if found, err := l.Forget(ctx, "reg:1"); err != nil || !found {
		t.Errorf("%v %v", found, err)
	}
	if _, err := os.Stat(filepath.Join(bin, "kept")); !os.IsNotExist(err) {
		t.Error("it was not erased")
	}
}
