package kit

import (
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"gantry/client/build"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/identity"
	"golang.org/x/term"
)

// targets are the files that a build's outputs write. They get their names when
// the build has succeeded, so that none is half of one.
type targets struct {
	stdout *os.File
	files  []target
}

type target struct{ temporary, path string }

// prepare makes the exports of a request.
func (t *targets) prepare(r build.Request, opt *bkclient.SolveOpt) error {
	stdout := false
	for _, o := range r.Outputs {
		if o.Type == "cacheonly" {
			continue
		}
		e := bkclient.ExportEntry{Type: o.Type, Attrs: maps.Clone(o.Attrs)}
		if e.Attrs == nil {
			e.Attrs = map[string]string{}
		}
		switch o.Type {
		case build.OutputImage, build.OutputOCI, build.OutputDocker:
			if e.Attrs["name"] == "" && len(r.Tags) > 0 {
				e.Attrs["name"] = strings.Join(r.Tags, ",")
			}
		}
		switch {
		case o.Type == build.OutputImage:
		case o.Type == build.OutputLocal, o.Directory():
			e.OutputDir = o.Dest
		case o.Dest == build.Stdin:
			if stdout {
				return invalid("two outputs want standard output")
			}
			if term.IsTerminal(int(t.stdout.Fd())) {
				return invalid("an archive is not written to a terminal: redirect standard output or name a file with dest=")
			}
			stdout = true
			e.Output = func(map[string]string) (io.WriteCloser, error) { return unclosed{t.stdout}, nil }
		case special(o.Dest):
			e.Output = func(map[string]string) (io.WriteCloser, error) { return os.OpenFile(o.Dest, os.O_WRONLY, 0) }
		default:
			if err := os.MkdirAll(filepath.Dir(o.Dest), 0o755); err != nil {
				return fmt.Errorf("output: %w", err)
			}
			temporary := filepath.Join(filepath.Dir(o.Dest), "."+filepath.Base(o.Dest)+"-"+identity.NewID())
			t.files = append(t.files, target{temporary, o.Dest})
			e.Output = func(map[string]string) (io.WriteCloser, error) {
				return os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
			}
		}
		opt.Exports = append(opt.Exports, e)
	}
	return nil
}

// special says whether a path is that of a pipe or a device: what is written
// goes into it, and nothing takes its place.
func special(path string) bool {
	fi, err := os.Stat(path)
	return err == nil && !fi.Mode().IsRegular() && !fi.IsDir()
}

// finish names the files of a build that has succeeded, and removes those of
// another. It gives err back, or what went wrong with naming.
func (t *targets) finish(err error) error {
	for _, f := range t.files {
		if err == nil {
			err = os.Rename(f.temporary, f.path)
		}
		if err != nil {
			os.Remove(f.temporary)
		}
	}
	return err
}

// unclosed is a stream of the process's own.
type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }
