package cli

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"gantry/scheduler"

	"golang.org/x/sys/unix"
)

// terminal opens a pseudo terminal of a size and gives what is drawn on it.
func terminal(t *testing.T, width, height int) (tty *os.File, screen func() []string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("needs pseudo terminals: %v", err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("needs pseudo terminals: %v", err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	s := &screenText{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 4096)
		for {
			n, err := master.Read(buf)
			mu.Lock()
			s.write(string(buf[:n]))
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	var once sync.Once
	finish := func() {
		tty.Close()
		<-done // the master reads EIO when nobody holds the other side
		master.Close()
	}
	t.Cleanup(func() { once.Do(finish) })
	return tty, func() []string {
		once.Do(finish)
		mu.Lock()
		defer mu.Unlock()
		return s.lines
	}
}

// screenText understands as much of a terminal as progress uses: what is left
// of it is what a user sees, scrolled-off lines included.
type screenText struct {
	lines  []string
	row    int
	rest   string
	cursor bool
	most   int // lines drawn over at once
}

var sequence = regexp.MustCompile(`^\x1b\[([?0-9;]*)([A-Za-z])`)

func (s *screenText) write(text string) {
	text = s.rest + text
	s.rest = ""
	for text != "" {
		if text[0] == '\x1b' {
			m := sequence.FindStringSubmatch(text)
			if m == nil {
				s.rest = text
				return
			}
			text = text[len(m[0]):]
			switch m[2] {
			case "A":
				n, _ := strconv.Atoi(m[1])
				s.most = max(s.most, n)
				s.row -= n
			case "J":
				s.lines = s.lines[:min(s.row, len(s.lines))]
			case "h", "l":
				if m[1] == "?25" {
					s.cursor = m[2] == "h"
				}
			}
			continue
		}
		i := strings.IndexAny(text, "\r\n\x1b")
		if i < 0 {
			i = len(text)
		}
		if i > 0 {
			for len(s.lines) <= s.row {
				s.lines = append(s.lines, "")
			}
			s.lines[s.row] = text[:i]
			text = text[i:]
			continue
		}
		if text[0] == '\n' {
			s.row++
		}
		text = text[1:]
	}
}

func TestLiveProgress(t *testing.T) {
	tty, screen := terminal(t, 60, 10)
	a := &app{err: tty, out: tty, ansi: "auto", progress: "auto", env: func(n string) string { return map[string]string{"NO_COLOR": "1"}[n] }}
	p := a.newProgress("up")
	if _, ok := p.(*ttyProgress); !ok {
		t.Fatalf("got %T on a terminal", p)
	}
	p.event(scheduler.Event{Plan: &scheduler.Plan{Notes: []string{"something to know"}}})
	for i := range 20 {
		p.event(step("run", "container", fmt.Sprintf("web-%02d", i), scheduler.StepStarted))
	}
	time.Sleep(2 * framePace) // frames in between, cut to the height
	for i := range 20 {
		p.event(step("run", "container", fmt.Sprintf("web-%02d", i), scheduler.StepDone))
	}
	p.close()
	got := screen()
	// The last state stays, whole and once; the note comes after it.
	if len(got) != 22 || got[0] != "[+] up 20/20" || got[21] != "gantry: note: something to know" {
		t.Fatalf("got %d lines: %q", len(got), got)
	}
	for i, l := range got[1:21] {
		if want := fmt.Sprintf(" ✔ Container web-%02d  Started  ", i); !strings.HasPrefix(l, want) {
			t.Errorf("line %d: got %q, want %q…", i, l, want)
		}
	}
}

// Frames before the last never exceed the terminal, or they could not be drawn
// over.
func TestLiveProgressStaysOnTheScreen(t *testing.T) {
	var out strings.Builder
	now := time.Unix(0, 0)
	p := &ttyProgress{w: &out, size: func() (int, int) { return 40, 8 }, now: func() time.Time { return now },
		done: make(chan struct{}), tidy: func() {}, notes: func(string) {}}
	for i := range 50 {
		now = now.Add(time.Second)
		p.event(step("run", "container", fmt.Sprintf("web-%d", i), scheduler.StepStarted))
	}
	s := &screenText{}
	s.write(out.String())
	if s.most == 0 {
		t.Error("nothing was drawn over")
	}
	if s.most >= 8 || len(s.lines) >= 8 {
		t.Errorf("%d lines were drawn over and %d shown on a terminal of 8", s.most, len(s.lines))
	}
}

func TestColours(t *testing.T) {
	tty, _ := terminal(t, 80, 24)
	env := func(pairs ...string) func(string) string {
		return func(n string) string {
			for i := 0; i < len(pairs); i += 2 {
				if pairs[i] == n {
					return pairs[i+1]
				}
			}
			return ""
		}
	}
	for _, tt := range []struct {
		ansi string
		env  func(string) string
		tty  bool
		want bool
	}{
		{"auto", env(), true, true}, {"auto", env(), false, false}, {"always", env(), false, true}, {"never", env(), true, false},
		{"auto", env("NO_COLOR", "1"), true, false}, {"auto", env("TERM", "dumb"), true, false}, {"always", env("NO_COLOR", "1"), true, true},
	} {
		a := &app{ansi: tt.ansi, env: tt.env}
		var got bool
		if tt.tty {
			got = a.colourful(tty)
		} else {
			got = a.colourful(&strings.Builder{})
		}
		if got != tt.want {
			t.Errorf("--ansi %s, terminal %t: got %t", tt.ansi, tt.tty, got)
		}
	}
}
