package runtime

import (
	"bufio"
	"cmp"
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
	Device string // of the file system, "8:1"
	Root   string // what of it is shown
	Point  string
	Shared string // its peer group
	Slave  string // the group it receives from
}

func (m mountEntry) compare(o mountEntry) int {
	return cmp.Or(strings.Compare(m.Point, o.Point), strings.Compare(m.Device, o.Device), strings.Compare(m.Root, o.Root),
		strings.Compare(m.Shared, o.Shared), strings.Compare(m.Slave, o.Slave))
}

// checkPropagation says why events could not pass a bind mount as it asks.
func (s sight) checkPropagation(m spec.Mount) error {
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
	here := mountOf(s.here, source)
	if here.Shared == "" && (!slave || here.Slave == "") {
		kind := "a shared mount"
		if slave {
			kind = "a shared or slave mount"
		}
		return fmt.Errorf("bind mount %s: %s: path %s is mounted on %s but it is not %s; make it one (mount --make-shared %s), or leave %s out: %w",
			m.Source, m.Propagation, m.Source, here.Point, kind, here.Point, m.Propagation, errdefs.ErrInvalidArgument)
	}
	return nil
}

// mountOf finds the mount a path without symbolic links lies on: of those that
// contain it the innermost, of several on one place the last, which hides the
// others.
func mountOf(table []mountEntry, path string) (best mountEntry) {
	for _, m := range table {
		if within(path, m.Point) && len(m.Point) >= len(best.Point) {
			best = m
		}
	}
	return best
}

func readMounts(path string) (table []mountEntry, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20) // an overlay of many layers is one line
	for lines.Scan() {
		if m, ok := parseMountEntry(lines.Text()); ok {
			table = append(table, m)
		}
	}
	return table, lines.Err()
}

func within(path, dir string) bool {
	return dir == "/" || path == dir || strings.HasPrefix(path, dir+"/")
}

func parseMountEntry(line string) (m mountEntry, ok bool) {
	f := strings.Fields(line)
	if len(f) < 7 {
		return m, false
	}
	m.Device, m.Root, m.Point = f[2], f[3], mountEscapes.Replace(f[4])
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
