package spec

import (
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"pgregory.net/rapid"
)

func image(c ocispec.ImageConfig) dockerspec.DockerOCIImage {
	return dockerspec.DockerOCIImage{Config: dockerspec.DockerOCIImageConfig{ImageConfig: c}}
}

func TestWithImageCommand(t *testing.T) {
	img := image(ocispec.ImageConfig{Entrypoint: []string{"entry"}, Cmd: []string{"cmd"}})
	for name, test := range map[string]struct{ have, want Config }{
		"nothing said":            {Config{}, Config{Entrypoint: []string{"entry"}, Command: []string{"cmd"}}},
		"command":                 {Config{Command: []string{"mine"}}, Config{Entrypoint: []string{"entry"}, Command: []string{"mine"}}},
		"entrypoint":              {Config{Entrypoint: []string{"mine"}}, Config{Entrypoint: []string{"mine"}}},
		"both":                    {Config{Entrypoint: []string{"a"}, Command: []string{"b"}}, Config{Entrypoint: []string{"a"}, Command: []string{"b"}}},
		"entrypoint reset":        {Config{Entrypoint: []string{""}, Command: []string{"b"}}, Config{Command: []string{"b"}}},
		"reset and no command":    {Config{Entrypoint: []string{""}}, Config{}},
		"empty entrypoint":        {Config{Entrypoint: []string{}}, Config{Command: []string{"cmd"}}},
		"empty entrypoint, words": {Config{Entrypoint: []string{}, Command: []string{"b"}}, Config{Command: []string{"b"}}},
	} {
		if diff := cmp.Diff(test.want, test.have.WithImage(img), cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Errorf("%s:\n%s", name, diff)
		}
	}
}

func TestWithImageMerges(t *testing.T) {
	img := image(ocispec.ImageConfig{
		Env: []string{"PATH=/image", "LANG=C", "GONE=1", "EMPTY="}, User: "app", WorkingDir: "/srv", StopSignal: "SIGQUIT",
		Labels: map[string]string{"a": "image", "b": "image"}, ExposedPorts: map[string]struct{}{"80/tcp": {}, "53/udp": {}, "9000": {}},
		Volumes: map[string]struct{}{"/data": {}, "/cache/": {}, "/covered": {}, "/tmpfs": {}},
	})
	img.Config.Healthcheck = &dockerspec.HealthcheckConfig{Test: []string{"CMD", "check"}, Interval: time.Minute, Retries: 5}
	c := Config{
		Env: []string{"LANG=de", "GONE", "NEW=1"}, Labels: map[string]string{"b": "mine"}, Network: Network{Exposed: []string{"80/tcp", "1/tcp"}},
		Mounts:      []Mount{{Type: MountBind, Source: "/x", Target: "/covered/"}, {Type: MountTmpfs, Target: "/tmpfs"}},
		Healthcheck: &Healthcheck{Retries: 2, Timeout: time.Second}, StopSignal: "SIGINT",
	}
	got := c.WithImage(img)
	want := c
	want.Env = []string{"PATH=/image", "LANG=de", "GONE", "EMPTY=", "NEW=1"}
	want.User, want.WorkingDir = "app", "/srv"
	want.Labels = map[string]string{"a": "image", "b": "mine"}
	want.Network.Exposed = []string{"80/tcp", "1/tcp", "53/udp", "9000/tcp"}
	want.Mounts = append([]Mount{}, c.Mounts[0], c.Mounts[1], Mount{Type: MountVolume, Target: "/cache"}, Mount{Type: MountVolume, Target: "/data"})
	want.Healthcheck = &Healthcheck{Test: []string{"CMD", "check"}, Interval: time.Minute, Timeout: time.Second, Retries: 2}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
	if env := environment(got, testID, server(), false); !cmp.Equal(env, []string{"PATH=/image", "HOSTNAME=0123456789ab", "LANG=de", "EMPTY=", "NEW=1"}) {
		t.Errorf("environment %q", env)
	}
	if h := (Config{}).WithImage(img).Healthcheck; h == nil || h.Interval != time.Minute {
		t.Errorf("the image's health check: %+v", h)
	}
	off := Config{Healthcheck: &Healthcheck{Test: []string{"NONE"}}}.WithImage(img)
	if _, ok := off.Probe(); ok {
		t.Error("NONE does not switch the image's health check off")
	}
}

// WithImage changes neither of the two it merges.
func TestWithImageLeavesItsInputsAlone(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		words := rapid.SliceOfN(rapid.SampledFrom([]string{"A=1", "B=2", "A", "C="}), 0, 4)
		img := image(ocispec.ImageConfig{
			Env: words.Draw(t, "image env"), Entrypoint: words.Draw(t, "image entrypoint"), Cmd: words.Draw(t, "image cmd"),
			Labels: map[string]string{"a": "1"}, Volumes: map[string]struct{}{"/v": {}}, ExposedPorts: map[string]struct{}{"1/tcp": {}},
		})
		c := anyConfig().Draw(t, "config")
		if rapid.Bool().Draw(t, "plain") {
			c.Entrypoint, c.Command = nil, nil
		}
		before, _ := json.Marshal([]any{c, img})
		merged := c.WithImage(img)
		for _, list := range [][]string{merged.Env, merged.Entrypoint, merged.Command, merged.Network.Exposed} {
			for i := range list {
				list[i] = "changed"
			}
		}
		for i := range merged.Mounts {
			merged.Mounts[i].Target = "changed"
		}
		merged.Labels["a"] = "changed"
		if after, _ := json.Marshal([]any{c, img}); string(after) != string(before) {
			t.Fatalf("changed\n%s\n%s", before, after)
		}
	})
}

// A record must not forget the difference between "nothing" and "not said".
func TestConfigSurvivesJSON(t *testing.T) {
	want := Config{Entrypoint: []string{}, MaskedPaths: []string{}, ReadonlyPaths: []string{}}
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got Config
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if got.Entrypoint == nil || got.MaskedPaths == nil || got.ReadonlyPaths == nil {
		t.Errorf("%s came back as %+v", text, got)
	}
	if text, _ := json.Marshal(Config{}); string(text) != "{}" {
		t.Errorf("an empty configuration is %s", text)
	}
	if maskedPaths(got, server()) == nil || len(maskedPaths(got, server())) != 0 || len(readonlyPaths(got)) != 0 {
		t.Error("paths are masked although none should be")
	}
}
