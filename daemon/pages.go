package daemon

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// unmapProgram lets go of the program's own pages. Starting has touched nearly
// all of it, what a daemon does from then on needs a quarter. They stay in the
// kernel's cache, where they are free to be reclaimed, and are mapped again
// without a read as long as they have not been.
func unmapProgram() error {
	exe, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return err
	}
	defer f.Close()
	var from, to uintptr
	ours := false
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		switch {
		case strings.HasSuffix(line, " "+exe):
			var perms string
			_, err := fmt.Sscanf(line, "%x-%x %s", &from, &to, &perms)
			ours = err == nil && !strings.Contains(perms, "w")
		case !ours:
		case strings.HasPrefix(line, "Anonymous:"):
			// What was written to once, as a linker does, is nowhere else.
			if ours = false; strings.Fields(line)[1] != "0" {
				continue
			}
			if _, _, errno := unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_DONTNEED); errno != 0 {
				return fmt.Errorf("madvise: %w", errno)
			}
		}
	}
	return nil
}
