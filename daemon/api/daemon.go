package api

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/containerd/errdefs"
)

// daemonStatus is what the daemon says about itself.
type daemonStatus struct {
	Version    string
	APIVersion string
	Pid        int
	Keeper     int
	Started    time.Time
	Root, Run  string
	Containers containerCount
	Images     int
	Networks   int
	Volumes    int
	Projects   int
}

func (s *server) daemonStatus(ctx context.Context, w http.ResponseWriter, _ *http.Request) error {
	out := daemonStatus{
		Version: s.Version, APIVersion: Newest, Pid: os.Getpid(), Started: s.Started, Root: s.Root, Run: s.Run,
		Containers: countContainers(s.Engine.List()),
		Networks:   len(s.Engine.ListNetworks()), Volumes: len(s.Engine.ListVolumes()),
	}
	if s.Keeper != nil {
		out.Keeper = s.Keeper()
	}
	images, err := s.Engine.ListImages(ctx)
	if err != nil {
		return err
	}
	out.Images = len(images)
	if s.Projects != nil {
		projects, err := s.Projects.Projects(ctx)
		if err != nil {
			return err
		}
		out.Projects = len(projects)
	}
	return writeJSON(w, http.StatusOK, out)
}

// daemonStop begins the shutdown and answers before it takes place; the client
// waits for the process itself. Containers are not stopped by it: either none
// lives, or ?containers=leave says that they shall run on.
func (s *server) daemonStop(_ context.Context, w http.ResponseWriter, r *http.Request) error {
	if s.Stop == nil {
		return unsupported("this daemon cannot be stopped by a call: stop the service that runs it")
	}
	leave := false
	switch how := r.URL.Query().Get("containers"); how {
	case "":
	case "leave":
		leave = true
	default:
		return invalid("containers=%s: it can only be leave", how)
	}
	if !leave {
		var live []string
		for _, c := range s.Engine.List() {
			if c.State.Live() {
				live = append(live, c.Name)
			}
		}
		if n := len(live); n > 0 {
			shown := live
			if n > 5 {
				shown = append(live[:5:5], fmt.Sprintf("%d more", n-5))
			}
			return errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf(
				"%d containers run (%s): stop them first, or let them run on with --leave", n, strings.Join(shown, ", ")))
		}
	}
	if err := s.Stop(leave); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}
