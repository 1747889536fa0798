package runtime

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
)

// What is mounted below a bind mount passes between the machine and a container
// only if the mount that the source lies on passes it: a bind of a private
// mount that is asked to be shared would be one that nobody shares.

// mountEntry is a line of mountinfo: proc_pid_mountinfo(5).
type mountEntry struct {
	Point  string
	Shared string // its peer group
	Slave  string // the group it receives from
}

// checkPropagation says why events could not pass a bind mount as it asks.
func (e *Engine) checkPropagation(m spec.Mount) error {
	var slave bool
	switch m.Propagation {
	case "shared", "rshared":
	case "slave", "rslave":
		slave = true
	default:
		return nil
	}
	source, err := filepath.EvalSymlinks(m.Source)
	if err != nil {
		return fmt.Errorf("bind mount %s: %w", m.Source, err)
	}
	here, err := mountOf("/proc/self/mountinfo", source)
	if err != nil {
		return fmt.Errorf("bind mount %s: %w", m.Source, err)
	}
	if here.Shared == "" && (!slave || here.Slave == "") {
		kind := "a shared mount"
		if slave {
			kind = "a shared or slave mount"
		}
		return fmt.Errorf("bind mount %s: %s: path %s is mounted on %s but it is not %s; make it one (mount --make-shared %s), or leave %s out: %w",
			m.Source, m.Propagation, m.Source, here.Point, kind, here.Point, m.Propagation, errdefs.ErrInvalidArgument)
	}
	// The keeper makes the mount, in a mount namespace of its own. What was
	// mounted since it started has come to it only if its parent is shared.
	there, err := mountOf(fmt.Sprintf("/proc/%d/mountinfo", e.Keeper.Pid()), source)
	if err != nil {
		return fmt.Errorf("bind mount %s: %w", m.Source, err)
	}
	if there.Point != here.Point || there.Shared != here.Shared {
		return fmt.Errorf("bind mount %s: %s: gantry does not see the mount on %s, which was made after it was started, below a mount that is not shared; make / shared (mount --make-rshared /) before gantry starts: %w",
			m.Source, m.Propagation, here.Point, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// mountOf finds the mount a path without symbolic links lies on: of those that
// contain it the innermost, of several on one place the last, which hides the
// others.
func mountOf(table, path string) (best mountEntry, err error) {
	f, err := os.Open(table)
	if err != nil {
		return best, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		m, ok := parseMountEntry(lines.Text())
		if ok && within(path, m.Point) && len(m.Point) >= len(best.Point) {
			best = m
		}
	}
	return best, lines.Err()
}

func within(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}

func parseMountEntry(line string) (m mountEntry, ok bool) {
	f := strings.Fields(line)
	if len(f) < 7 {
		return m, false
	}
	m.Point = mountEscapes.Replace(f[4])
	for _, opt := range f[6:] {
		if opt == "-" {
			return m, true
		}
		if group, has := strings.CutPrefix(opt, "shared:"); has {
			m.Shared = group
		}
		if group, has := strings.CutPrefix(opt, "master:"); has {
			m.Slave = group
		}
	}
	return m, false
}

// mountEscapes undoes what the kernel writes for characters that would end a
// field.
var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
