package build

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// builder writes a program that stands in for the builder's.
func builder(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "gantryd")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestRun(t *testing.T) {
	job := Job{Host: "unix:///x", Progress: "quiet", Requests: []Request{{Name: "a", Inline: "FROM x", Secrets: []Secret{{ID: "s", Content: []byte("hush")}}}}}
	var out, errs strings.Builder
	s := Streams{In: strings.NewReader("nothing"), Out: &out, Err: &errs}
	results, err := Run(t.Context(), builder(t, `
[ "$*" = build ] || exit 9
read -r job <&3
case $job in *'"Host":"unix:///x"'*) ;; *) exit 8;; esac
echo to the terminal >&2
echo an archive
echo '{"Results":[{"Name":"a","Image":"sha256:1"}]}' >&4
`), job, s)
	if err != nil || len(results) != 1 || results[0].Image != "sha256:1" || out.String() != "an archive\n" || errs.String() != "to the terminal\n" {
		t.Errorf("got %v, %v, %q, %q", results, err, out.String(), errs.String())
	}
	_, err = Run(t.Context(), builder(t, `echo '{"Error":"no such thing","Class":"not-found"}' >&4`), job, s)
	if err == nil || err.Error() != "no such thing" || !errdefs.IsNotFound(err) {
		t.Errorf("got %v", err)
	}
	for script, want := range map[string]string{"exit 3": "died: exit status 3", "exit 0": "ended without a word", "kill -9 $$": "killed"} {
		if _, err := Run(t.Context(), builder(t, script), job, s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", script, err, want)
		}
	}
	if _, err := Run(t.Context(), "/nosuch", job, s); err == nil || !strings.Contains(err.Error(), "start the builder") {
		t.Errorf("got %v", err)
	}
}

// Whoever gives up is told so at once; the builder hears it by its pipe.
func TestRunIsCancelled(t *testing.T) {
	said := filepath.Join(t.TempDir(), "said")
	program := builder(t, "cat <&3 >/dev/null; echo over > "+said+"; exit 1\n")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	begin := time.Now()
	_, err := Run(ctx, program, Job{Requests: []Request{{Inline: "FROM x"}}}, Streams{})
	if !errors.Is(err, context.Canceled) || time.Since(begin) > patience {
		t.Errorf("got %v after %s", err, time.Since(begin))
	}
	if text, err := os.ReadFile(said); err != nil || string(text) != "over\n" {
		t.Errorf("the builder did not hear of it: %q, %v", text, err)
	}
}

func TestMetadata(t *testing.T) {
	text, err := json.Marshal(Result{Response: map[string]string{"image.name": "x", "d": "eyJhIjoxfQ==", "n": "MTIz"}}.Metadata())
	if err != nil || string(text) != `{"d":{"a":1},"image.name":"x","n":"MTIz"}` {
		t.Errorf("got %s, %v", text, err)
	}
}
