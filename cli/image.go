package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"gantry/client"
	"gantry/client/build"

	"github.com/spf13/cobra"
)

func (a *app) imageCommand() *cobra.Command {
	image := noun("image", "Images")
	image.AddCommand(a.imageBuildCommand(), a.imageImportCommand(), a.imageLoadCommand(), a.imageListCommand(), a.imageTagCommand(),
		a.inspectCommand("images", a.completeImages, func(ctx context.Context, c *client.Client, ref string) (any, error) { return c.Image(ctx, ref) }),
		a.imageRemoveCommand(), a.imageHistoryCommand(), a.imageSaveCommand(), a.imagePruneCommand(),
		a.imagePullCommand(), a.imagePushCommand(), a.imageSearchCommand())
	return image
}

func (a *app) imageImportCommand() *cobra.Command {
	var changes []string
	var message string
	cmd := &cobra.Command{
		Use:   "import TAR [NAME]",
		Short: "Make an image of the archive of a root file system",
		Long:  "Make an image of the archive of a root file system, plain or compressed. \"-\" is standard input.",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			in, err := a.archive(args[0])
			if err != nil {
				return err
			}
			defer in.Close()
			name := ""
			if len(args) > 1 {
				name = args[1]
			}
			err = c.ImportImage(cmd.Context(), in, name, "", message, changes, func(s string) { fmt.Fprintln(a.out, strings.TrimSuffix(s, "\n")) })
			if err != nil {
				return fmt.Errorf("import %s: %w", sourceName(args[0]), err)
			}
			return nil
		},
	}
	cmd.Flags().StringArrayVarP(&changes, "change", "c", nil, "Dockerfile `line` to apply: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, USER, VOLUME, WORKDIR, …")
	cmd.Flags().StringVarP(&message, "message", "m", "", "`text` for the image's history")
	return cmd
}

func (a *app) imageLoadCommand() *cobra.Command {
	var input string
	var quiet bool
	cmd := &cobra.Command{
		Use:   "load [ARCHIVE]",
		Short: "Load images from an archive of docker save or of an OCI layout",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				if input != "" && input != args[0] {
					return errors.New("the archive is given twice: as --input and as an argument")
				}
				input = args[0]
			}
			if input == "" {
				if isTerminal(a.in) {
					return errors.New("no archive: name one with -i or send it to standard input")
				}
				input = "-"
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			in, err := a.archive(input)
			if err != nil {
				return err
			}
			defer in.Close()
			err = c.LoadImages(cmd.Context(), in, func(s string) {
				if !quiet {
					fmt.Fprintln(a.out, strings.TrimSuffix(s, "\n"))
				}
			})
			if err != nil {
				return fmt.Errorf("load %s: %w", sourceName(input), err)
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&input, "input", "i", "", "`archive`, plain or compressed; \"-\" is standard input")
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "say nothing")
	return cmd
}

// archive opens a file to be sent; "-" is standard input.
func (a *app) archive(path string) (io.ReadCloser, error) {
	if path == "-" {
		return io.NopCloser(a.in), nil
	}
	if build.IsRemote(path) {
		return nil, fmt.Errorf("%s: an archive is not fetched from elsewhere: download it, or pipe it in", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err == nil && st.IsDir() {
		f.Close()
		return nil, fmt.Errorf("%s is a directory; an archive is needed", path)
	}
	return f, nil
}

// sourceName is what archive reads, for people.
func sourceName(path string) string {
	if path == "-" {
		return "standard input"
	}
	return path
}

// imageRow is an image under one of its names.
type imageRow struct {
	Containers   string
	CreatedAt    string
	CreatedSince string
	Digest       string
	ID           string
	Repository   string
	Size         string
	Tag          string
}

func (a *app) imageListCommand() *cobra.Command {
	var all, quiet, noTrunc, digests bool
	var format string
	var filters []string
	cmd := &cobra.Command{
		Use:               "ls [NAME]",
		Aliases:           []string{"list"},
		Short:             "List images",
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			f, err := parseFilters(filters)
			if err != nil {
				return err
			}
			if len(args) > 0 {
				f = f.Add("reference", args[0])
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			images, err := c.Images(cmd.Context(), all, f)
			if err != nil {
				return err
			}
			l := list[imageRow]{quiet: "ID", columns: []column{{"REPOSITORY", "Repository"}, {"TAG", "Tag"},
				{"IMAGE ID", "ID"}, {"CREATED", "CreatedSince"}, {"SIZE", "Size"}}}
			if digests {
				l.columns = slices.Insert(l.columns, 2, column{"DIGEST", "Digest"})
			}
			for _, img := range images {
				l.rows = append(l.rows, imageRows(img, time.Now(), noTrunc)...)
			}
			if quiet {
				l.rows = slices.CompactFunc(l.rows, func(a, b imageRow) bool { return a.ID == b.ID })
			}
			return l.print(a.out, format, quiet)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&all, "all", "a", false, "intermediate images, too")
	f.BoolVarP(&quiet, "quiet", "q", false, "ids alone")
	f.BoolVar(&noTrunc, "no-trunc", false, "do not shorten")
	f.BoolVar(&digests, "digests", false, "show digests")
	f.StringArrayVar(&filters, "filter", nil, "only those with `key=value`")
	f.StringVar(&format, "format", "table", "table, json or a Go template")
	dryRunnable(cmd)
	return cmd
}

const none = "<none>"

func imageRows(img client.Image, now time.Time, whole bool) []imageRow {
	row := imageRow{ID: img.ID, Size: bytesText(img.Size), CreatedAt: time.Unix(img.Created, 0).Format("2006-01-02 15:04:05 -0700 MST"),
		CreatedSince: ago(now.Sub(time.Unix(img.Created, 0))), Repository: none, Tag: none, Digest: none, Containers: "N/A"}
	if img.Created <= 0 {
		row.CreatedSince = "N/A"
	}
	if !whole {
		row.ID = shortID(img.ID)
	}
	if len(img.RepoDigests) > 0 {
		_, row.Digest, _ = strings.Cut(img.RepoDigests[0], "@")
	}
	if len(img.RepoTags) == 0 {
		return []imageRow{row}
	}
	var rows []imageRow
	for _, name := range slices.Sorted(slices.Values(img.RepoTags)) {
		row.Repository, row.Tag = splitTag(name)
		rows = append(rows, row)
	}
	return rows
}

// splitTag parts "host:5000/name:tag" at its last colon, if that is a tag's.
func splitTag(name string) (repository, tag string) {
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		return name[:i], name[i+1:]
	}
	return name, none
}

// bytesText writes a size as docker does: decimal units, three digits.
func bytesText(n int64) string { return unitText(float64(n), 1000, "B", "kB", "MB", "GB", "TB", "PB") }

// binaryText writes a size in powers of 1024.
func binaryText(n float64) string {
	return unitText(n, 1024, "B", "KiB", "MiB", "GiB", "TiB", "PiB")
}

func unitText(n, base float64, units ...string) string {
	i := 0
	for n >= base && i < len(units)-1 {
		n /= base
		i++
	}
	return fmt.Sprintf("%.4g%s", n, units[i])
}

func (a *app) imageTagCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "tag IMAGE NAME",
		Short:             "Give an image one more name",
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			repository, tag := splitTag(args[1])
			if tag == none {
				tag = ""
			}
			return c.TagImage(cmd.Context(), args[0], repository, tag)
		},
	}
}

func (a *app) imageRemoveCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:               "rm IMAGE...",
		Aliases:           []string{"remove"},
		Short:             "Remove images",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.forEach(cmd.Context(), args, func(ctx context.Context, c *client.Client, ref string) error {
				gone, err := c.RemoveImage(ctx, ref, force)
				for _, g := range gone {
					if g.Untagged != "" {
						fmt.Fprintln(a.out, "Untagged:", g.Untagged)
					}
					if g.Deleted != "" {
						fmt.Fprintln(a.out, "Deleted:", g.Deleted)
					}
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "also an image that has several names or that containers use")
	return cmd
}

// parseFilters reads key=value pairs.
func parseFilters(pairs []string) (client.Filters, error) {
	f := client.Filters{}
	for _, p := range pairs {
		key, value, ok := strings.Cut(p, "=")
		if !ok || key == "" {
			return nil, fmt.Errorf("--filter %q: must be key=value", p)
		}
		f = f.Add(key, value)
	}
	return f, nil
}

// jsonObject is an object with its fields by the names that JSON shows, for
// --format.
func jsonObject(v any) (any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	var out any
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	err = dec.Decode(&out)
	return plainNumbers(out), err
}

// plainNumbers makes whole numbers integers, which print without an exponent
// and compare with the constants of a template.
func plainNumbers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			v[k] = plainNumbers(x)
		}
	case []any:
		for i, x := range v {
			v[i] = plainNumbers(x)
		}
	case json.Number:
		if n, err := v.Int64(); err == nil {
			return n
		}
		if f, err := v.Float64(); err == nil {
			return f
		}
	}
	return v
}
