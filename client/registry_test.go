package client

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestNamesForRegistries(t *testing.T) {
	for _, tt := range []struct {
		ref       string
		all       bool
		name, tag string
		fails     string
	}{
		{ref: "web", name: "web", tag: "latest"},
		{ref: "example.com/a/web:1", name: "example.com/a/web", tag: "1"},
		{ref: "web", all: true, name: "web"},
		{ref: "web:1", all: true, fails: "all tags are meant"},
		{ref: "https://example.com/web", fails: "leave out the https://, as in example.com/web"},
		{ref: "Web", fails: "lowercase"},
		{ref: "", fails: "invalid reference"},
	} {
		name, tag, err := splitRef(tt.ref, tt.all)
		if tt.fails != "" {
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tt.fails) {
				t.Errorf("%q: %v, want %q", tt.ref, err, tt.fails)
			}
			continue
		}
		if err != nil || name != tt.name || tag != tt.tag {
			t.Errorf("%q: %q %q %v", tt.ref, name, tag, err)
		}
	}
	digest := "web@sha256:" + strings.Repeat("0", 64)
	if err := new(Client).PushImage(t.Context(), digest, false, nil); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "name a tag") {
		t.Errorf("push of a digest: %v", err)
	}
}
