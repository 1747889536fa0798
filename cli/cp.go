package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"gantry/client"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
)

type copyOptions struct {
	archive, follow, quiet bool
}

func (o *copyOptions) flags(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&o.archive, "archive", "a", false, "keep owners when copying out; give files to the container's user when copying in")
	cmd.Flags().BoolVarP(&o.follow, "follow-link", "L", false, "copy what a symbolic link leads to")
}

func (a *app) cpCommand() *cobra.Command {
	var o copyOptions
	var index int
	var all bool
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] SERVICE:PATH DEST|- or SRC|- SERVICE:PATH",
		Short: "Copy files from or to containers",
		Long: "Copy files from a service's container, running or not, or to all of its containers.\n" +
			"- is a tar archive on standard input or output.",
		Args:                  cobra.ExactArgs(2),
		DisableFlagsInUseLine: true,
		ValidArgsFunction:     a.completeCopy(a.completeService),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			src, dst, err := copySides(args, "service")
			if err != nil {
				return err
			}
			service := src.ref + dst.ref
			s, err := a.stack(ctx, stackOptions{services: []string{service}, all: true, oneOff: all})
			if err != nil {
				return err
			}
			var chosen []replica
			for _, r := range s.containers {
				if index == 0 || r.labels.Number == index && !r.labels.OneOff {
					chosen = append(chosen, r)
				}
			}
			switch {
			case len(chosen) == 0 && index > 0:
				return fmt.Errorf("service %s has no container with number %d", service, index)
			case len(chosen) == 0:
				return fmt.Errorf("service %s has no container; make one with `gantry create %s`", service, service)
			case src.ref != "":
				return a.copyOut(ctx, s.client, chosen[0].name, src.path, dst.path, o)
			case src.path == "-" && len(chosen) > 1:
				return fmt.Errorf("service %s has %d containers, and standard input can be read once; choose one with --index", service, len(chosen))
			}
			var errs []error
			for _, r := range chosen {
				errs = append(errs, a.copyIn(ctx, s.client, r.name, src.path, dst.path, o))
			}
			return errors.Join(errs...)
		},
	}
	o.flags(cmd)
	cmd.Flags().IntVar(&index, "index", 0, "number of the container, if a service has several")
	cmd.Flags().BoolVar(&all, "all", false, "containers of single commands, too")
	return cmd
}

func (a *app) containerCpCommand() *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use:   "cp [OPTIONS] CONTAINER:PATH DEST|- or SRC|- CONTAINER:PATH",
		Short: "Copy files from or to a container",
		Long:  "Copy files from or to a container, running or not. - is a tar archive on standard input or output.",
		Args:  cobra.ExactArgs(2),

		DisableFlagsInUseLine: true,
		ValidArgsFunction:     a.completeCopy(a.completeContainers),
		RunE: func(cmd *cobra.Command, args []string) error {
			src, dst, err := copySides(args, "container")
			if err != nil {
				return err
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			if src.ref != "" {
				return a.copyOut(cmd.Context(), c, src.ref, src.path, dst.path, o)
			}
			return a.copyIn(cmd.Context(), c, dst.ref, src.path, dst.path, o)
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVarP(&o.quiet, "quiet", "q", false, "say nothing of what was copied")
	return cmd
}

// completeCopy completes names, each with its colon, and files.
func (a *app) completeCopy(names completer) completer {
	return func(cmd *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 1 || strings.ContainsAny(word, ":/.") {
			return nil, cobra.ShellCompDirectiveDefault
		}
		found, _ := names(cmd, nil, word)
		for i, name := range found {
			name, _, _ = strings.Cut(name, "\t")
			found[i] = name + ":"
		}
		return found, cobra.ShellCompDirectiveNoSpace
	}
}

// copySide is one of the two between which is copied.
type copySide struct {
	ref  string // of a container or service; "": this machine
	path string
}

func copySides(args []string, what string) (src, dst copySide, err error) {
	src, dst = splitCopy(args[0]), splitCopy(args[1])
	switch {
	case src.ref == "" && dst.ref == "":
		err = fmt.Errorf("one of the two must be in a %s: %s:PATH", what, strings.ToUpper(what))
	case src.ref != "" && dst.ref != "":
		err = fmt.Errorf("one of the two must be on this machine: copying between %ss is not supported", what)
	case src.path == "" || dst.path == "":
		err = errors.New("a path is missing")
	}
	return src, dst, err
}

// splitCopy reads NAME:PATH. A path of this machine with a colon is written
// with a slash or a dot before it.
func splitCopy(arg string) copySide {
	ref, p, ok := strings.Cut(arg, ":")
	if !ok || filepath.IsAbs(arg) || strings.HasPrefix(arg, ".") || strings.Contains(ref, "/") {
		return copySide{path: arg}
	}
	return copySide{ref, p}
}

// target is where what is copied goes: into a directory, under a name; "" for
// the content of a directory without itself.
type target struct{ dir, name string }

// thing is what is at a path.
type thing struct{ exists, dir bool }

// aim decides where something goes, by cp's rules and Docker's: into a directory
// that is there, in the place of a file, or under a name that is new. base is
// the name of the source, parent and name are the destination's.
func aim(src, base string, srcDir bool, dst, parent, name string, at thing) (target, error) {
	content := srcDir && (src == "." || strings.HasSuffix(src, "/.") || base == "/")
	asDir := strings.HasSuffix(dst, "/") || strings.HasSuffix(dst, "/.")
	switch {
	case at.exists && at.dir && content:
		return target{dir: dst}, nil
	case at.exists && at.dir:
		return target{dst, base}, nil
	case at.exists && srcDir:
		return target{}, fmt.Errorf("%s is no directory, and a directory cannot be copied to it", dst)
	case asDir && (at.exists || !srcDir):
		return target{}, fmt.Errorf("there is no directory %s", dst)
	}
	return target{parent, name}, nil
}

func splitLocal(p string) (dir, base string) {
	if abs, err := filepath.Abs(p); err == nil {
		p = abs
	}
	return filepath.Dir(p), filepath.Base(p)
}

func splitInside(p string) (dir, base string) {
	p = path.Join("/", p)
	return path.Dir(p), path.Base(p)
}

// copyOut copies from a container.
func (a *app) copyOut(ctx context.Context, c *client.Client, ref, src, dst string, o copyOptions) error {
	if dst == "-" && isTerminal(a.out) {
		return errors.New("a tar archive is not for a terminal; send it to a file or a program")
	}
	// What is in the way is replaced, and nobody means a device of this machine.
	if fi, err := os.Stat(dst); dst != "-" && err == nil && !fi.IsDir() && !fi.Mode().IsRegular() {
		return fmt.Errorf("copy to %s: it is neither a directory nor a regular file; \"-\" writes a tar archive to standard output", dst)
	}
	from := src
	if o.follow {
		st, err := c.StatPath(ctx, ref, src)
		if err != nil {
			return err
		}
		if st.Mode&fs.ModeSymlink != 0 {
			from = st.LinkTarget
		}
	}
	st, body, err := c.GetArchive(ctx, ref, from)
	if err != nil {
		return err
	}
	defer body.Close()
	if dst == "-" {
		_, err := io.Copy(a.out, body)
		return err
	}
	var at thing
	fi, err := os.Stat(dst)
	switch {
	case err == nil:
		at = thing{true, fi.IsDir()}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	_, base := splitInside(src)
	parent, name := splitLocal(dst)
	to, err := aim(src, base, st.Mode.IsDir(), dst, parent, name, at)
	if err != nil {
		return err
	}
	n, err := unpackLocal(to, st.Name, body, o.archive && os.Geteuid() == 0)
	if err != nil {
		return fmt.Errorf("copy %s:%s to %s: %w", ref, src, dst, err)
	}
	a.tellCopied(o, n, dst)
	return nil
}

// copyIn copies to a container.
func (a *app) copyIn(ctx context.Context, c *client.Client, ref, src, dst string, o copyOptions) error {
	put := client.PutOptions{NoOverwrite: true, ToUser: o.archive}
	if src == "-" {
		return c.PutArchive(ctx, ref, dst, put, a.in)
	}
	look := os.Lstat
	if o.follow || strings.HasSuffix(src, "/") || strings.HasSuffix(src, "/.") {
		look = os.Stat
	}
	fi, err := look(src)
	if err != nil {
		return err
	}
	var at thing
	inside := dst
	st, err := c.StatPath(ctx, ref, inside)
	if err == nil && st.Mode&fs.ModeSymlink != 0 {
		inside = st.LinkTarget
		st, err = c.StatPath(ctx, ref, inside)
	}
	switch {
	case err == nil:
		at = thing{true, st.Mode.IsDir()}
	case !errdefs.IsNotFound(err):
		return err
	}
	_, base := splitLocal(src)
	parent, name := splitInside(inside)
	to, err := aim(src, base, fi.IsDir(), inside, parent, name, at)
	if err != nil {
		return err
	}
	r, w := io.Pipe()
	packed := make(chan int64, 1)
	go func() {
		n, err := packLocal(w, src, to.name, look)
		w.CloseWithError(err)
		packed <- n
	}()
	err = c.PutArchive(ctx, ref, to.dir, put, r)
	r.CloseWithError(errors.New("the daemon has ended the copy"))
	n := <-packed
	if err != nil {
		return fmt.Errorf("copy %s to %s:%s: %w", src, ref, dst, err)
	}
	a.tellCopied(o, n, ref+":"+dst)
	return nil
}

func (a *app) tellCopied(o copyOptions, n int64, to string) {
	if !o.quiet && isTerminal(a.err) {
		fmt.Fprintf(a.err, "copied %s to %s\n", bytesText(n), to)
	}
}

func (a *app) exportCommand() *cobra.Command {
	var output string
	var index int
	cmd := &cobra.Command{
		Use:               "export SERVICE",
		Short:             "Write a container's filesystem as a tar archive",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeService,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			s, err := a.stack(ctx, stackOptions{services: args, all: true})
			if err != nil {
				return err
			}
			for _, r := range s.containers {
				if index == 0 || r.labels.Number == index {
					return a.export(ctx, s.client, r.ID, output)
				}
			}
			return fmt.Errorf("service %s has no such container; `gantry ps -a` shows those there are", args[0])
		},
	}
	exportFlags(cmd, &output)
	cmd.Flags().IntVar(&index, "index", 0, "number of the container, if a service has several")
	return cmd
}

func (a *app) containerExportCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "export CONTAINER",
		Short:             "Write a container's filesystem as a tar archive",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			return a.export(cmd.Context(), c, args[0], output)
		},
	}
	exportFlags(cmd, &output)
	return cmd
}

func exportFlags(cmd *cobra.Command, output *string) {
	cmd.Flags().StringVarP(output, "output", "o", "", "`file` to write to (default: standard output)")
	_ = cmd.MarkFlagFilename("output", "tar")
}

func (a *app) export(ctx context.Context, c *client.Client, ref, output string) error {
	if output == "" && isTerminal(a.out) {
		return errors.New("a tar archive is not for a terminal; name a file with -o")
	}
	body, err := c.Export(ctx, ref)
	if err != nil {
		return err
	}
	defer body.Close()
	if output == "" {
		_, err := io.Copy(a.out, body)
		return err
	}
	return writeWhole(output, body)
}

// writeWhole writes a file that is there only when it is complete.
func writeWhole(name string, content io.Reader) (err error) {
	if fi, err := os.Stat(name); err == nil && !fi.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0) // a pipe or a device
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	var at *fs.PathError
	if errors.As(err, &at) {
		return fmt.Errorf("write %s: %w", name, at.Err) // the other name says nothing
	} else if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	if err = errors.Join(err, f.Chmod(0o600), f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}

func (a *app) containerDiffCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "diff CONTAINER",
		Short:             "Show what a container has changed in its filesystem",
		Long:              "Show what a container has added (A), changed (C) and deleted (D) in its filesystem.",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContainers,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			found, err := c.Changes(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			for _, x := range found {
				fmt.Fprintln(a.out, x.Kind.String(), x.Path)
			}
			return nil
		},
	}
}
