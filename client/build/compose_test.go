package build

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/compose"

	"github.com/google/go-cmp/cmp"
)

func load(t *testing.T, text string, files ...string) (*compose.Project, string) {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i+1 < len(files); i += 2 {
		write(t, filepath.Join(dir, files[i]), files[i+1])
	}
	write(t, filepath.Join(dir, "compose.yaml"), text)
	p, err := compose.Load(t.Context(), compose.Source{WorkDir: dir, Environ: []string{"FROM_ENV=e", "PASS=pw"}, NoContent: true, All: true})
	if err != nil {
		t.Fatal(err)
	}
	return p, dir
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Every key of a build section arrives.
func TestFromCompose(t *testing.T) {
	p, dir := load(t, `
name: shop
secrets: {file: {file: ./s.txt}, env: {environment: PASS}}
services:
  base: {build: {context: base}}
  web:
    build:
      context: web
      dockerfile: docker/Dockerfile.web
      additional_contexts: {base: "service:base", src: ./src, img: "docker-image://alpine:3", lay: "oci-layout:///l"}
      args: {A: "1", FROM_ENV: , UNSET: }
      ssh: [default, "deploy=/k"]
      secrets: [file, {source: env, target: pw}]
      cache_from: [user/app, "type=local,src=c"]
      cache_to: ["type=inline"]
      no_cache: true
      no_cache_filter: [one]
      pull: true
      target: app
      network: host
      shm_size: 2m
      extra_hosts: ["a=10.0.0.1", "b=::1"]
      platforms: [linux/amd64]
      privileged: true
      entitlements: [network.host]
      labels: {l: v}
      tags: [other:1]
      ulimits: {nproc: 5, nofile: {soft: 10, hard: 20}}
      provenance: mode=max
      sbom: "true"
`, "s.txt", "secret", "web/x", "", "base/x", "", "src/x", "")
	got, err := FromCompose(p, "web")
	if err != nil {
		t.Fatal(err)
	}
	want := Request{
		Name: "web", Context: dir + "/web", Dockerfile: dir + "/web/docker/Dockerfile.web",
		Contexts: map[string]string{"base": "service:base", "src": dir + "/src", "img": "docker-image://alpine:3", "lay": "oci-layout:///l"},
		Target:   "app", Tags: []string{"shop-web", "other:1"}, Args: map[string]string{"A": "1", "FROM_ENV": "e"}, Labels: map[string]string{"l": "v"},
		NoCache: true, NoCacheFilter: []string{"one"}, Pull: true, Platforms: []string{"linux/amd64"}, Network: "host", ShmSize: 2 << 20,
		ExtraHosts: []string{"a=10.0.0.1", "b=::1"}, Ulimits: []string{"nofile=10:20", "nproc=5"},
		Secrets:   []Secret{{ID: "file", File: dir + "/s.txt"}, {ID: "pw", Content: []byte("pw")}},
		SSH:       []Key{{ID: "default"}, {ID: "deploy", Paths: []string{"/k"}}},
		CacheFrom: []Cache{{"registry", map[string]string{"ref": "user/app"}}, {"local", map[string]string{"src": dir + "/c"}}},
		CacheTo:   []Cache{{"inline", map[string]string{}}},
		Outputs:   []Output{{Type: OutputImage, Attrs: map[string]string{}}},
		Allow:     []string{AllowHost, AllowInsecure},
		Attests:   map[string]string{"provenance": "mode=max", "sbom": ""},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"base", "web"}, compose.NeededBuilds(p, []string{"web"})); d != "" {
		t.Error(d)
	}
}

func TestFromComposeInline(t *testing.T) {
	p, dir := load(t, `
name: shop
services:
  web: {image: "mine:1", platform: linux/amd64, build: {dockerfile_inline: "FROM scratch"}}
  git: {build: "https://example.com/x.git#main:sub"}
`)
	got, err := FromCompose(p, "web")
	if err != nil || got.Inline != "FROM scratch" || got.Dockerfile != "" || got.Context != dir || got.Tags[0] != "mine:1" || got.Platforms[0] != "linux/amd64" {
		t.Errorf("got %+v, %v", got, err)
	}
	got, err = FromCompose(p, "git")
	if err != nil || got.Context != "https://example.com/x.git#main:sub" || got.Dockerfile != "Dockerfile" {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestFromComposeRefuses(t *testing.T) {
	for want, section := range map[string]string{
		`service web: build cache of type "gha"`:         `cache_to: ["type=gha"]`,
		`service web: cache_from "type=local"`:           `cache_from: ["type=local"]`,
		`service web: secret gone: open `:                `secrets: [gone]`,
		`secret novar: the variable NOPE is not set`:     `secrets: [novar]`,
		`secret ext: external secrets are not supported`: `secrets: [ext]`,
		`entitlement "device" is not supported`:          `entitlements: [device]`,
		`service web: network "front": the steps`:        `network: front`,
	} {
		p, _ := load(t, `
name: shop
secrets: {gone: {file: ./nosuch}, novar: {environment: NOPE}, ext: {external: true}}
services: {web: {build: {context: ., `+section+`}}}
`)
		if _, err := FromCompose(p, "web"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", section, err, want)
		}
	}
}
