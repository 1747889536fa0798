package api

import (
	"context"
	"net/http"
	"strings"

	volumetypes "github.com/moby/moby/api/types/volume"
)

func (s *server) volumeList(_ context.Context, w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r.URL.Query(), "name", "driver", "label", "label!", "dangling")
	if err != nil {
		return err
	}
	dangling, only, err := f.boolean("dangling")
	if err != nil {
		return err
	}
	out := volumetypes.ListResponse{Volumes: []volumetypes.Volume{}}
	for _, v := range s.Engine.ListVolumes() {
		switch {
		case !f.any("name", func(n string) bool { return strings.Contains(v.Name, n) }):
		case !f.is("driver", v.Driver), !f.labels(v.Labels):
		case only && dangling != (len(s.Engine.VolumeUsers(v.Name)) == 0):
		default:
			out.Volumes = append(out.Volumes, wireVolume(v))
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func (s *server) volumeCreate(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	var req volumetypes.CreateRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	spec, err := volumeSpec(req)
	if err != nil {
		return err
	}
	v, err := s.Engine.CreateVolume(ctx, spec)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, wireVolume(v))
}

func (s *server) volumeInspect(_ context.Context, w http.ResponseWriter, r *http.Request) error {
	v, err := s.Engine.Volume(r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, wireVolume(v))
}

func (s *server) volumeRemove(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	if err := s.Engine.RemoveVolume(ctx, r.PathValue("name"), boolean(r.URL.Query(), "force")); err != nil {
		return err
	}
	return noContent(w)
}
