package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gantry/client/build"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/pflag"
)

// Every flag of image build arrives in the request.
func TestImageBuildFlags(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ctx", "src"} {
		if err := os.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile("key", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	a := &app{env: func(name string) string { return map[string]string{"SOURCE_DATE_EPOCH": "7"}[name] }, environ: []string{"FROM_ENV=e"}}
	var got build.Request
	parse := func(args string) error {
		var o imageBuild
		f := pflag.NewFlagSet("build", pflag.ContinueOnError)
		o.flags(f)
		if err := f.Parse(strings.Fields(args)); err != nil {
			return err
		}
		if err := o.refuse(); err != nil {
			return err
		}
		var err error
		got, err = a.imageRequest(f.Arg(0), f, o)
		return err
	}
	err = parse("-t a -t b:1 -f src/D --build-arg A=1 --build-arg FROM_ENV --build-arg UNSET --build-context x=src --target t --label l=v " +
		"--no-cache-filter one,two --pull --platform linux/amd64,linux/arm64 --network none --add-host h:10.0.0.1 --add-host v6=[::1] --shm-size 1m " +
		"--ulimit nofile=1:2 --secret id=k,src=key --ssh default --allow security.insecure --cache-from c --cache-to type=inline " +
		"-o type=oci,dest=o.tar --load --provenance max --sbom false --cgroup-parent /g -m 64m --memory-swap -1 -c 5 --cpu-period 6 --cpu-quota 7 --cpuset-cpus 0-1 --cpuset-mems 0 ctx")
	if err != nil {
		t.Fatal(err)
	}
	want := build.Request{
		Context: dir + "/ctx", Dockerfile: dir + "/src/D", Tags: []string{"a", "b:1"}, Target: "t",
		Args: map[string]string{"A": "1", "FROM_ENV": "e", "SOURCE_DATE_EPOCH": "7"}, Labels: map[string]string{"l": "v"},
		Contexts: map[string]string{"x": dir + "/src"}, NoCacheFilter: []string{"one", "two"}, Pull: true,
		Platforms: []string{"linux/amd64", "linux/arm64"}, Network: "none", ExtraHosts: []string{"h=10.0.0.1", "v6=::1"}, ShmSize: 1 << 20,
		Ulimits: []string{"nofile=1:2"}, Secrets: []build.Secret{{ID: "k", File: filepath.Join(dir, "key")}}, SSH: []build.Key{{ID: "default"}},
		Allow: []string{"security.insecure"}, CacheFrom: []build.Cache{{Type: "registry", Attrs: map[string]string{"ref": "c"}}},
		CacheTo: []build.Cache{{Type: "inline", Attrs: map[string]string{}}},
		Outputs: []build.Output{{Type: build.OutputOCI, Dest: dir + "/o.tar", Attrs: map[string]string{}}, {Type: build.OutputImage, Attrs: map[string]string{}}},
		Attests: map[string]string{"provenance": "mode=max"}, Cgroup: "/g",
		Limits: map[string]string{"memory": "67108864", "memswap": "-1", "cpushares": "5", "cpuperiod": "6", "cpuquota": "7", "cpusetcpus": "0-1", "cpusetmems": "0"},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if err := parse("-t a --push ctx"); err != nil || got.Outputs[0].Attrs["push"] != "true" || got.Dockerfile != "" {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := parse("-f - https://a.b/c.git"); err != nil || got.Dockerfile != build.Stdin || got.Context != "https://a.b/c.git" {
		t.Errorf("got %+v, %v", got, err)
	}
	for args, want := range map[string]string{
		"--cpu-shares -1 ctx": "--cpu-shares must not be negative", "--call lint ctx": "--call lint", "--label =x ctx": `--label "=x"`,
		"--build-arg =x ctx": `--build-arg "=x"`, "-f http://x/D ctx": "a Dockerfile elsewhere", "--check --call targets ctx": "cannot be combined",
		"-m lots ctx": `--memory "lots"`,
	} {
		if err := parse(args); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", args, err, want)
		}
	}
}
