package logs

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// logsWithoutEnd is the program of the test below, if this process is it.
func logsWithoutEnd() {
	path := os.Getenv("GANTRY_TEST_OWN_LOG")
	if path == "" {
		return
	}
	log := slog.New(slog.NewTextHandler(OpenOwn(path, 1000), nil))
	for i := range 100 {
		log.Info("line", "number", i)
	}
	fmt.Println("by the way")
	panic("the last word")
}

// A program that logs without end has two files of bounded size, the newest
// lines in them, and its panic behind them.
func TestOwnLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own.log")
	if err := os.WriteFile(path, bytes.Repeat([]byte("old\n"), 500), 0o600); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GANTRY_TEST_OWN_LOG="+path)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err == nil {
		t.Fatal("it did not panic")
	}
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	lines, trace, _ := strings.Cut(string(now), "by the way\n")
	if len(lines) > 1000 || len(before) > 1000 {
		t.Errorf("%d bytes, and %d before", len(lines), len(before))
	}
	if !strings.Contains(trace, "panic: the last word") {
		t.Errorf("no panic in the file:\n%s", now)
	}
	all := strings.Split(strings.TrimSpace(string(before)+lines), "\n")
	for i, line := range all {
		if want := fmt.Sprint("number=", 100-len(all)+i); !strings.HasSuffix(line, want) {
			t.Fatalf("line %q, want %s", line, want)
		}
	}
	if files, _ := filepath.Glob(path + "*"); len(files) != 2 {
		t.Errorf("files %v", files)
	}
}

// Two that write to one file do not put aside each other's new one.
func TestOwnLogOfTwo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own.log")
	open := func() *Own {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return openOwn(f, path, 100, int(f.Fd()))
	}
	a, b := open(), open()
	line := []byte(strings.Repeat("x", 59) + "\n")
	for _, o := range []*Own{a, b, a, b} { // a puts aside what both wrote, b follows
		if _, err := o.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	for file, want := range map[string]int64{path: 120, path + ".1": 120} {
		if st, err := os.Stat(file); err != nil || st.Size() != want {
			t.Errorf("%s: %v %v", file, st, err)
		}
	}
}

// What is not the file at the path is left alone.
func TestOwnLogElsewhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "own.log")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for _, at := range []string{path, "/dev/null", "/no/such"} {
		o := openOwn(w, at, 4, int(w.Fd()))
		for range 3 {
			if _, err := o.Write([]byte("word")); err != nil {
				t.Fatal(err)
			}
		}
	}
	buf := make([]byte, 100)
	if n, _ := r.Read(buf); n != 36 {
		t.Errorf("read %d", n)
	}
	if st, err := os.Stat(path); err != nil || st.Size() != 0 {
		t.Errorf("%v %v", st, err)
	}
	var s unix.Stat_t
	if unix.Stat(path+".1", &s) == nil {
		t.Error("a file of others was put aside")
	}
}
