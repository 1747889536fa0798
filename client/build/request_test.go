package build

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
)

func TestOptions(t *testing.T) {
	r := Request{
		Target: "app", Args: map[string]string{"A": "1", "EMPTY": ""}, Labels: map[string]string{"l": "v"},
		NoCacheFilter: []string{"one", "two"}, Pull: true, Platforms: []string{"linux/amd64", "linux/arm64"}, Network: "none",
		ShmSize: 1 << 20, ExtraHosts: []string{"a=10.0.0.1", "b=::1"}, Ulimits: []string{"nofile=10:20"}, Cgroup: "/x",
		Limits: map[string]string{"memory": "1000"}, Attests: map[string]string{"provenance": "mode=max", "sbom": ""}, Call: "check",
	}
	want := map[string]string{
		"target": "app", "build-arg:A": "1", "build-arg:EMPTY": "", "label:l": "v", "no-cache": "one,two", "image-resolve-mode": "pull",
		"platform": "linux/amd64,linux/arm64", "force-network-mode": "none", "shm-size": "1048576", "add-hosts": "a=10.0.0.1,b=::1",
		"ulimit": "nofile=10:20", "cgroup-parent": "/x", "memory": "1000", "attest:provenance": "mode=max", "attest:sbom": "",
		"requestid": "frontend.lint",
	}
	if d := cmp.Diff(want, r.Options()); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(map[string]string{}, Request{Network: "default"}.Options()); d != "" {
		t.Error(d)
	}
	if o := (Request{NoCache: true, NoCacheFilter: []string{"one"}}).Options(); o["no-cache"] != "" || len(o) != 1 {
		t.Errorf("all stages are to run: %v", o)
	}
	if d := cmp.Diff([]string{AllowHost, AllowInsecure}, Request{Network: "host", Allow: []string{AllowInsecure, AllowHost}}.Entitlements()); d != "" {
		t.Error(d)
	}
}

// Nothing is ignored: what a build cannot be is refused by its name.
func TestCheck(t *testing.T) {
	for want, r := range map[string]Request{
		`network "front"`:                     {Network: "front"},
		`entitlement "device"`:                {Allow: []string{"device"}},
		`build cache of type "gha"`:           {CacheTo: []Cache{{Type: "gha"}}},
		`output of type docker holds one`:     {Platforms: []string{"a", "b"}, Outputs: []Output{{Type: OutputDocker, Dest: Stdin}}},
		`output of type tar needs dest=FILE`:  {Outputs: []Output{{Type: OutputTar}}},
		`extra host "x" is not NAME=ADDRESS`:  {ExtraHosts: []string{"x"}},
		`attestation "vex"`:                   {Attests: map[string]string{"vex": ""}},
		`--call lint`:                         {Call: "lint"},
		`given twice: as a file and inline`:   {Inline: "FROM a", Dockerfile: "/x"},
		`both the context and the Dockerfile`: {Context: Stdin, Dockerfile: Stdin},
	} {
		err := r.Check()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("got %v, want %q", err, want)
		}
		if !errors.Is(err, errdefs.ErrInvalidArgument) && !errors.Is(err, errdefs.ErrNotImplemented) {
			t.Errorf("%v has no class", err)
		}
	}
}

func TestOrder(t *testing.T) {
	inline := func(name string, needs ...string) Request {
		r := Request{Name: name, Inline: "FROM " + name, Tags: []string{name}, Contexts: map[string]string{}}
		for _, n := range needs {
			r.Contexts[n] = ServicePrefix + n
		}
		return r
	}
	twin := inline("base")
	twin.Name, twin.Tags = "twin", []string{"twin", "base"}
	builds, err := Order([]Request{inline("web", "app"), inline("app", "base"), inline("base"), twin, inline("side", "twin")})
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		Names []string
		Tags  []string
		After []int
	}
	var got []row
	for _, b := range builds {
		got = append(got, row{b.Names, b.Tags, b.After})
	}
	want := []row{
		{[]string{"base", "twin"}, []string{"base", "twin"}, nil},
		{[]string{"app"}, []string{"app"}, []int{0}},
		{[]string{"web"}, []string{"web"}, []int{1}},
		{[]string{"side"}, []string{"side"}, []int{0}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	for want, requests := range map[string][]Request{
		"need each other's images: a → b → a":                     {inline("a", "b"), inline("b", "a")},
		"service a: build context service:b: no such build":       {inline("a", "b")},
		"service a is asked for twice":                            {inline("a"), inline("a")},
		"service a and service b both want standard input":        {{Name: "a", Context: Stdin}, {Name: "b", Context: "/x", Dockerfile: Stdin}},
		`service a: network "x": the steps of a build are on the`: {{Name: "a", Network: "x"}},
	} {
		if _, err := Order(requests); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

func TestParse(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "key")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	environ := func(name string) (string, bool) { return map[string]string{"TOKEN": "t0k"}[name], name == "TOKEN" }
	must := func(v any, err error) any {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	output := func(text string) any { return must(ParseOutput(text, dir)) }
	cache := func(what, text string) any { return must(ParseCache(what, text, dir)) }
	secret := func(text string) any { return must(ParseSecret(text, dir, environ)) }
	attest := func(kind, text string) any { return must(ParseAttest(kind, text)) }
	type m = map[string]string
	for i, tt := range []struct{ got, want any }{
		{output("out"), Output{Type: OutputLocal, Dest: dir + "/out"}},
		{output("-"), Output{Type: OutputTar, Dest: Stdin}},
		{output("type=tar,dest=a.tar"), Output{OutputTar, dir + "/a.tar", m{}}},
		{output("type=docker"), Output{OutputImage, "", m{}}},
		{output("type=registry,name=r/x"), Output{OutputImage, "", m{"name": "r/x", "push": "true"}}},
		{output(`type=oci,"dest=/a,b",compression=zstd`), Output{OutputOCI, "/a,b", m{"compression": "zstd"}}},
		{output("type=oci,tar=false,dest=" + dir), Output{OutputOCI, dir, m{"tar": "false"}}},
		{cache("--cache-from", "user/app:cache"), Cache{"registry", m{"ref": "user/app:cache"}}},
		{cache("--cache-from", "type=local,src=c"), Cache{"local", m{"src": dir + "/c"}}},
		{cache("--cache-to", "type=local,dest=/c,mode=max"), Cache{"local", m{"dest": "/c", "mode": "max"}}},
		{cache("--cache-to", "type=inline"), Cache{"inline", m{}}},
		{secret("id=k,src=key"), Secret{ID: "k", File: file}},
		{secret("id=key"), Secret{ID: "key", File: file}},
		{secret("id=TOKEN"), Secret{ID: "TOKEN", Content: []byte("t0k")}},
		{secret("id=x,env=TOKEN"), Secret{ID: "x", Content: []byte("t0k")}},
		{secret("type=env,id=x,src=TOKEN"), Secret{ID: "x", Content: []byte("t0k")}},
		{must(ParseSSH("default", dir)), Key{ID: "default"}},
		{must(ParseSSH("deploy=a,/b", dir)), Key{ID: "deploy", Paths: []string{dir + "/a", "/b"}}},
		{attest("provenance", "true"), m{"provenance": ""}},
		{attest("provenance", "max"), m{"provenance": "mode=max"}},
		{attest("provenance", "false"), m(nil)},
		{attest("sbom", "generator=x"), m{"sbom": "generator=x"}},
		{attest("", "type=sbom,generator=x"), m{"sbom": "generator=x"}},
	} {
		if d := cmp.Diff(tt.want, tt.got); d != "" {
			t.Errorf("%d: %s", i, d)
		}
	}
	second := func(_ any, err error) error { return err }
	for want, err := range map[string]error{
		"type is missing": second(ParseOutput("dest=x", dir)),
		`output of type tar: dest=` + dir + " is a direc": second(ParseOutput("type=tar,dest="+dir, dir)),
		"output of type zip is not supported":             second(ParseOutput("type=zip,dest=x", dir)),
		`"tar" is not key=value`:                          second(ParseOutput("type=oci,tar", dir)),
		"ref is missing":                                  second(ParseCache("cache_from", "type=registry", dir)),
		"dest is missing":                                 second(ParseCache("cache_to", "type=local", dir)),
		`cache of type "s3"`:                              second(ParseCache("cache_to", "type=s3,bucket=x", dir)),
		"id is missing":                                   second(ParseSecret("src=key", dir, environ)),
		"no such file":                                    second(ParseSecret("id=a,src=nosuch", dir, environ)),
		"the variable NOPE is not set":                    second(ParseSecret("id=a,env=NOPE", dir, environ)),
		"unknown key mode":                                second(ParseSecret("id=a,mode=1", dir, environ)),
		"must be default or ID=":                          second(ParseSSH("=x", dir)),
		"--attest":                                        second(ParseAttest("", "mode=max")),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	// What is printed can be read again.
	o := Output{OutputOCI, "/a,b", map[string]string{"tar": "true"}}
	if d := cmp.Diff(o, output(o.String())); d != "" {
		t.Error(d)
	}
}

func TestContexts(t *testing.T) {
	for text, want := range map[string][2]string{
		"base=docker-image://alpine": {"base", "docker-image://alpine"},
		"src=../x":                   {"src", "/w/x"},
		"l=oci-layout://lay:v1":      {"l", "oci-layout:///w/d/lay:v1"},
		"g=https://a.b/c.git#main":   {"g", "https://a.b/c.git#main"},
	} {
		name, source, err := ParseContext(text, "/w/d")
		if got := [2]string{name, source}; err != nil || got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	if _, _, err := ParseContext("base", "/"); err == nil {
		t.Error("a context without a source is taken")
	}
}
