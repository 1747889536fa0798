package daemon

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
)

func residentFile(t *testing.T) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`RssFile:\s*(\d+) kB`).FindSubmatch(status)
	if m == nil {
		t.Fatalf("no RssFile in %s", status)
	}
	n, err := strconv.Atoi(string(m[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// A program that has let go of its pages is smaller, and goes on.
func TestUnmapProgram(t *testing.T) {
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(os.Args)
	before := residentFile(t)
	if err := unmapProgram(); err != nil {
		t.Fatal(err)
	}
	after := residentFile(t)
	if after > before*3/4 {
		t.Errorf("%d kB of %d kB of the program are resident before, %d kB after", before, len(exe)>>10, after)
	}
	if again := fmt.Sprint(os.Args); again != text {
		t.Errorf("%q has become %q", text, again)
	}
}
