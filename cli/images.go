package cli

import (
	"context"
	"strings"
	"sync"
	"time"

	"gantry/client"

	"github.com/spf13/cobra"
)

// usedImage is the image a container was made from.
type usedImage struct {
	ID            string
	ContainerName string
	Repository    string
	Tag           string
	Platform      string
	Size          int64
	Created       string
	LastTagTime   string

	SizeText, CreatedText string `json:"-"`
}

func (a *app) imagesCommand() *cobra.Command {
	var quiet bool
	var format string
	cmd := &cobra.Command{
		Use:               "images [SERVICE...]",
		Short:             "List the images that containers were made from",
		ValidArgsFunction: a.completeServices,
		RunE: func(cmd *cobra.Command, services []string) error {
			ctx := cmd.Context()
			s, err := a.stack(ctx, stackOptions{services: services, all: true, looks: true})
			if err != nil {
				return err
			}
			all, err := s.client.Images(ctx, true, nil)
			if err != nil {
				return err
			}
			byID := map[string]client.Image{}
			for _, img := range all {
				byID[img.ID] = img
			}
			platforms := platformsOf(ctx, s)
			l := list[usedImage]{quiet: "ID", array: true, columns: []column{{"CONTAINER", "ContainerName"}, {"REPOSITORY", "Repository"},
				{"TAG", "Tag"}, {"PLATFORM", "Platform"}, {"IMAGE ID", "ID"}, {"SIZE", "SizeText"}, {"CREATED", "CreatedText"}}}
			seen := map[string]bool{}
			for _, r := range s.containers {
				img := byID[r.ImageID]
				row := usedImage{ID: r.ImageID, ContainerName: r.name, Platform: platforms[r.ImageID], Size: img.Size,
					SizeText: bytesText(img.Size), Created: time.Unix(img.Created, 0).UTC().Format(time.RFC3339), Repository: none, Tag: none}
				row.CreatedText = ago(time.Since(time.Unix(img.Created, 0)))
				if img.Created <= 0 {
					row.CreatedText = "N/A"
				}
				if len(img.RepoTags) > 0 {
					row.Repository, row.Tag = splitTag(img.RepoTags[0])
				}
				switch {
				case quiet:
					_, row.ID, _ = strings.Cut(row.ID, ":")
				case format != formatJSON:
					row.ID = shortID(row.ID)
				}
				if quiet && seen[row.ID] {
					continue
				}
				seen[row.ID] = true
				l.rows = append(l.rows, row)
			}
			return l.print(a.out, format, quiet)
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "ids alone")
	cmd.Flags().StringVar(&format, "format", "table", "table, json or a Go template")
	a.completeFlagValues(cmd, "format", "table", "json")
	dryRunnable(cmd)
	return cmd
}

// platformsOf tells the platforms of the images in use, by id. They are asked
// for one by one: there are few.
func platformsOf(ctx context.Context, s *stack) map[string]string {
	texts := map[string]*string{}
	for _, r := range s.containers {
		texts[r.ImageID] = new(string)
	}
	var work sync.WaitGroup
	for id, text := range texts {
		work.Go(func() {
			d, err := s.client.Image(ctx, id)
			if err != nil {
				return // gone, or going: then there is none to tell
			}
			*text = d.Os + "/" + d.Architecture
			if d.Variant != "" {
				*text += "/" + d.Variant
			}
		})
	}
	work.Wait()
	out := map[string]string{}
	for id, text := range texts {
		out[id] = *text
	}
	return out
}
