package image

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// crashTar is big enough that an import of it can be hit in the middle.
func crashTar(t testing.TB, i int) []byte {
	var entries []entry
	for j := range 200 {
		entries = append(entries, entry{name: fmt.Sprintf("d%d/f%d", j%7, j), body: strings.Repeat(fmt.Sprint(i), 4000)})
	}
	return makeTar(t, entries...)
}

// crashChild pulls, pushes, imports, commits and removes images until it is
// killed.
func crashChild() {
	ctx := context.Background()
	s, err := Open(ctx, Options{Root: os.Getenv("GANTRY_IMAGE_CRASH")})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("open")
	var t testing.T
	seed := os.Getpid() * 1000
	h := openHub()
	for i := 0; ; i++ {
		ref := fmt.Sprintf("pulled%d:1", i%5)
		h.image(&t, ref, crashTar(&t, seed+i+900))
		if _, err := s.Pull(ctx, PullOptions{Ref: h.name(ref)}); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		name := fmt.Sprintf("crash%d", i%5)
		img, err := s.Import(ctx, bytes.NewReader(crashTar(&t, seed+i)), ImportOptions{Name: name})
		if err == nil {
			_, err = s.Commit(ctx, CommitOptions{Base: img.ID, Name: fmt.Sprintf("on-top%d", i%5)}, layerOf(crashTar(&t, seed+i+500), 200))
		}
		if err == nil {
			err = s.Tag(ctx, name, h.name("pushed:1"))
		}
		if err == nil {
			_, err = s.Push(ctx, PushOptions{Ref: h.name("pushed:1")})
		}
		if err == nil && i%2 == 1 {
			_, err = s.Remove(ctx, h.name(ref), RemoveOptions{})
		}
		if err == nil && i%3 == 2 {
			_, err = s.Remove(ctx, name, RemoveOptions{})
		}
		if err == nil && i%4 == 3 {
			err = s.Collect(ctx)
		}
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
}

// TestKilled kills a process at random moments of pulls, pushes, imports,
// commits, removals and collections. The store opens, what it lists is whole, and the next collection
// leaves nothing else.
func TestKilled(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: layers are unpacked with their owners and overlay marks")
	}
	root := t.TempDir()
	for range 12 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "GANTRY_IMAGE_CRASH="+root)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line := make([]byte, 5); true {
			if _, err := io.ReadFull(out, line); err != nil || string(line) != "open\n" {
				t.Fatalf("child: %q %v", line, err)
			}
		}
		time.Sleep(time.Duration(rand.IntN(250)) * time.Millisecond)
		cmd.Process.Kill()
		rest, _ := io.ReadAll(out)
		if err := cmd.Wait(); cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("child: %v %s", err, rest)
		}

		s, err := Open(t.Context(), Options{Root: root})
		if err != nil {
			t.Fatal(err)
		}
		mustBeClean(t, s)
		all, err := s.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, img := range all {
			dirs, err := s.Lowers(t.Context(), img.ID)
			if err != nil {
				t.Fatalf("%v: %v", img.Names, err)
			}
			files := 0
			for _, line := range tree(t, dirs[0]) {
				if strings.Contains(line, " -rw") {
					files++
				}
			}
			if files != 200 {
				t.Errorf("%v has %d files, want 200", img.Names, files)
			}
			if err := s.Release(t.Context(), img.ID); err != nil {
				t.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
