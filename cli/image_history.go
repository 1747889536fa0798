package cli

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// stepRow is a line of image history.
type stepRow struct {
	ID           string
	CreatedSince string
	CreatedAt    string
	CreatedBy    string
	Size         string
	Comment      string
}

func (a *app) imageHistoryCommand() *cobra.Command {
	var human, noTrunc, quiet bool
	var format string
	cmd := &cobra.Command{
		Use:               "history IMAGE",
		Short:             "Show how an image was made",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			steps, err := c.ImageHistory(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			l := list[stepRow]{quiet: "ID", columns: []column{{"IMAGE", "ID"}, {"CREATED", "CreatedSince"}, {"CREATED BY", "CreatedBy"}, {"SIZE", "Size"}, {"COMMENT", "Comment"}}}
			if !human {
				l.columns[1] = column{"CREATED AT", "CreatedAt"}
			}
			now := time.Now()
			for _, s := range steps {
				r := stepRow{ID: s.ID, CreatedBy: strings.Join(strings.Fields(s.CreatedBy), " "), Comment: s.Comment, Size: fmt.Sprint(s.Size)}
				if s.Created != 0 {
					at := time.Unix(s.Created, 0)
					r.CreatedSince, r.CreatedAt = ago(now.Sub(at)), at.Format(time.RFC3339)
				}
				if human {
					r.Size = bytesText(s.Size)
				}
				if !noTrunc {
					if r.ID != "<missing>" {
						r.ID = shortID(r.ID)
					}
					if text := []rune(r.CreatedBy); len(text) > 45 {
						r.CreatedBy = string(text[:44]) + "…"
					}
				}
				l.rows = append(l.rows, r)
			}
			return l.print(a.out, format, quiet)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&human, "human", "H", true, "sizes and times as people say them")
	f.BoolVar(&noTrunc, "no-trunc", false, "do not cut anything short")
	f.BoolVarP(&quiet, "quiet", "q", false, "ids alone")
	f.StringVar(&format, "format", "table", "table, json or a Go template")
	dryRunnable(cmd)
	return cmd
}

func (a *app) imageSaveCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:               "save IMAGE...",
		Short:             "Write images into a tar archive",
		Long:              "Write images into a tar archive that `gantry image load`, `docker load` and OCI tools read.",
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeImages,
		RunE: func(cmd *cobra.Command, args []string) error {
			if output == "" && isTerminal(a.out) {
				return errors.New("a tar archive is not for a terminal; name a file with -o")
			}
			c, err := a.daemon(cmd.Context())
			if err != nil {
				return err
			}
			body, err := c.SaveImages(cmd.Context(), args)
			if err != nil {
				return err
			}
			defer body.Close()
			if output == "" {
				_, err := io.Copy(a.out, body)
				return err
			}
			return writeWhole(output, body)
		},
	}
	exportFlags(cmd, &output)
	return cmd
}
