package api

import (
	"slices"
	"strings"
	"testing"

	"gantry/runtime"
	"gantry/runtime/spec"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/moby/moby/api/types/container"
	moby "github.com/moby/moby/client"
)

func TestUpdateContainer(t *testing.T) {
	f := newFake()
	c := dial(t, f)
	unlimited := int64(0)
	got, err := c.ContainerUpdate(t.Context(), "web", moby.ContainerUpdateOptions{
		Resources:     &container.Resources{Memory: 1 << 30, MemorySwap: -1, NanoCPUs: 1e9, PidsLimit: &unlimited},
		RestartPolicy: &container.RestartPolicy{Name: "always"},
	})
	if err != nil || len(got.Warnings) != 0 {
		t.Fatalf("got %+v, %v", got, err)
	}
	want := runtime.UpdateOptions{
		Resources: spec.Resources{Memory: 1 << 30, MemorySwap: -1, NanoCPUs: 1e9, PidsLimit: -1},
		Restart:   &spec.RestartPolicy{Name: "always"},
	}
	if diff := cmp.Diff(want, f.updated); diff != "" {
		t.Error(diff)
	}
	if calls := f.noted(); !slices.Equal(calls, []string{"update web"}) {
		t.Errorf("calls %q", calls)
	}
	_, err = c.ContainerUpdate(t.Context(), "web", moby.ContainerUpdateOptions{Resources: &container.Resources{CgroupParent: "/x"}})
	if !errdefs.IsNotImplemented(err) || !strings.Contains(err.Error(), "CgroupParent") {
		t.Errorf("got %v", err)
	}
	_, err = c.ContainerUpdate(t.Context(), "web", moby.ContainerUpdateOptions{RestartPolicy: &container.RestartPolicy{Name: "sometimes"}})
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
}
