package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"gantry/client/build"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// imageBuild are the flags of image build.
type imageBuild struct {
	buildOptions
	file, target, network, progress    string
	tags, contexts, labels             []string
	platforms, hosts                   []string
	ulimits, secrets, ssh, allow       []string
	cacheFrom, cacheTo, outputs        []string
	attests                            []string
	call, idFile, metadataFile, cgroup string
	shmSize, memorySwap                string
	cpusetCPUs, cpusetMems             string
	cpuShares, cpuPeriod, cpuQuota     int64
	load                               bool
	isolation                          string
	securityOpts, annotations, devices []string
	squash, compress                   bool
	remove, forceRemove                bool
}

func (a *app) imageBuildCommand() *cobra.Command {
	var o imageBuild
	cmd := &cobra.Command{
		Use:   "build DIR|URL|-",
		Short: "Build an image from a Dockerfile",
		Long: "Build an image from a Dockerfile and the files of a directory, of a git repository\n" +
			"or of an archive. \"-\" is an archive or a Dockerfile on standard input.",
		Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.imageBuild(cmd.Context(), args[0], cmd.Flags(), o)
		},
	}
	o.flags(cmd.Flags())
	a.completeFlagValues(cmd, "network", "default", "none", "host")
	a.completeFlagValues(cmd, "progress", "auto", "tty", "plain", "rawjson", "quiet")
	a.completeFlagValues(cmd, "call", "build", "check", "outline", "targets")
	a.completeFlagValues(cmd, "allow", build.AllowHost, build.AllowInsecure)
	a.completeFlagValues(cmd, "output", "type=image", "type=local,dest=", "type=tar,dest=", "type=oci,dest=", "type=docker,dest=")
	for _, name := range []string{"file", "iidfile", "metadata-file"} {
		a.completeFlagFiles(cmd, name, cobra.ShellCompDirectiveDefault)
	}
	return cmd
}

func (o *imageBuild) flags(f *pflag.FlagSet) {
	o.buildOptions.flags(f)
	f.StringArrayVarP(&o.tags, "tag", "t", nil, "`name` of the image; may be given several times")
	f.StringVarP(&o.file, "file", "f", "", "Dockerfile, also outside of the directory; \"-\" is standard input (default: Dockerfile in the directory)")
	f.StringArrayVar(&o.contexts, "build-context", nil, "a further source as `NAME=DIR|URL|docker-image://…|oci-layout://…`")
	f.StringVar(&o.target, "target", "", "`stage` to stop at")
	f.StringArrayVar(&o.labels, "label", nil, "label of the image, `KEY=VALUE`")
	f.StringSliceVar(&o.platforms, "platform", nil, "`platform` to build for, such as linux/amd64; may be given several times")
	f.StringVar(&o.network, "network", "", "network of the steps: default, none or host")
	f.StringArrayVar(&o.hosts, "add-host", nil, "a further name in the steps' /etc/hosts, `NAME:ADDRESS`")
	f.StringVar(&o.shmSize, "shm-size", "", "`size` of the steps' /dev/shm")
	f.StringArrayVar(&o.ulimits, "ulimit", nil, "`NAME=SOFT[:HARD]` limit of the steps")
	f.StringArrayVar(&o.secrets, "secret", nil, "what steps may ask for: `id=ID,src=FILE` or id=ID,env=NAME")
	f.StringArrayVar(&o.ssh, "ssh", nil, "agent or keys that steps may ask for: default, or `ID=SOCKET|KEY`")
	f.StringSliceVar(&o.allow, "allow", nil, "let steps ask for more `rights`: network.host, security.insecure")
	f.StringArrayVar(&o.cacheFrom, "cache-from", nil, "use the build cache of an `IMAGE` or type=registry|local,…; may be given several times")
	f.StringArrayVar(&o.cacheTo, "cache-to", nil, "keep build cache as `type=inline|registry|local,…`; may be given several times")
	f.StringArrayVarP(&o.outputs, "output", "o", nil, "where the result goes: a `DIR`, - for an archive on standard output, or type=image|registry|local|tar|oci|docker,dest=…")
	f.BoolVar(&o.load, "load", false, "store the image here, which is what happens anyway")
	f.StringVar(&o.idFile, "iidfile", "", "write the image's id to a `file`")
	f.StringVar(&o.metadataFile, "metadata-file", "", "write what is known of the result to a `file`, as JSON")
	f.StringVar(&o.progress, "progress", "", "how to show progress: auto, tty, plain, rawjson, quiet")
	f.StringVar(&o.call, "call", "build", "ask about the Dockerfile instead of building: check, outline, targets")
	f.StringArrayVar(&o.attests, "attest", nil, "an attestation, `type=provenance|sbom,…`")
	f.StringVar(&o.cgroup, "cgroup-parent", "", "`cgroup` of the steps")
	f.StringVar(&o.memorySwap, "memory-swap", "", "`limit` of memory and swap together; -1: no bound")
	f.Int64VarP(&o.cpuShares, "cpu-shares", "c", 0, "`weight` among those who want the processor")
	f.Int64Var(&o.cpuPeriod, "cpu-period", 0, "period of the processor's quota, in `microseconds`")
	f.Int64Var(&o.cpuQuota, "cpu-quota", 0, "time of a period that a step may take, in `microseconds`")
	f.StringVar(&o.cpusetCPUs, "cpuset-cpus", "", "`processors` the steps run on, such as 0-1")
	f.StringVar(&o.cpusetMems, "cpuset-mems", "", "memory `nodes` of the steps")
	o.refusedFlags(f)
}

// refusedFlags are docker's that mean nothing here: refused by name, or asking
// for what is the case anyway.
func (o *imageBuild) refusedFlags(f *pflag.FlagSet) {
	f.StringVar(&o.isolation, "isolation", "", "")
	f.StringSliceVar(&o.securityOpts, "security-opt", nil, "")
	f.StringArrayVar(&o.annotations, "annotation", nil, "")
	f.StringArrayVar(&o.devices, "device", nil, "")
	f.BoolVar(&o.squash, "squash", false, "")
	f.BoolVar(&o.compress, "compress", false, "")
	f.BoolVar(&o.remove, "rm", true, "")
	f.BoolVar(&o.forceRemove, "force-rm", false, "")
	for _, name := range []string{"isolation", "security-opt", "annotation", "device", "squash", "compress", "rm", "force-rm"} {
		_ = f.MarkHidden(name)
	}
}

func (o *imageBuild) refuse() error {
	if err := o.buildOptions.refuse(); err != nil {
		return err
	}
	switch {
	case o.isolation != "" && o.isolation != "default":
		return fmt.Errorf("--isolation %s exists on Windows alone", o.isolation)
	case len(o.securityOpts) > 0:
		return errors.New("--security-opt is not supported: a step asks for more rights with RUN --security, and --allow grants them")
	case len(o.annotations) > 0:
		return errors.New("--annotation is not supported; give them to an output: type=image,annotation.KEY=VALUE")
	case len(o.devices) > 0:
		return errors.New("--device is not supported: steps have no devices")
	case o.squash:
		return errors.New("--squash is not supported: copy what is wanted into a last stage")
	case !o.remove:
		return errors.New("--rm=false is not supported: steps are no containers and leave none")
	case o.check && o.call != "build" && o.call != "check":
		return errors.New("--check and --call cannot be combined")
	case o.push && len(o.outputs) > 0:
		return errors.New("--push and --output cannot be combined: give --output type=registry")
	}
	return nil
}

func (a *app) imageBuild(ctx context.Context, source string, f *pflag.FlagSet, o imageBuild) error {
	if err := o.refuse(); err != nil {
		return err
	}
	switch o.progress {
	case "":
	case "auto", "tty", "plain", "rawjson", "quiet":
		a.progress = o.progress
	default:
		return fmt.Errorf("--progress %q: must be auto, tty, plain, rawjson or quiet", o.progress)
	}
	r, err := a.imageRequest(source, f, o)
	if err != nil {
		return err
	}
	// Removed first: what is there afterwards is of this build.
	for _, path := range []string{o.idFile, o.metadataFile} {
		if path == "" {
			continue
		}
		if _, err := os.Stat(filepath.Dir(path)); err != nil {
			return err // it would be found out when all is done
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	c, err := a.daemon(ctx)
	if err != nil {
		return err
	}
	results, err := a.runBuilds(ctx, c, []build.Request{r}, o.quiet)
	if err != nil {
		return err
	}
	if len(results) == 1 {
		if err := o.write(results[0]); err != nil {
			return err
		}
	}
	return a.told(results, r.Call != "", o.quiet || a.progress == "quiet")
}

// write keeps what is known of a result.
func (o *imageBuild) write(r build.Result) error {
	if o.idFile != "" && r.Image != "" {
		if err := os.WriteFile(o.idFile, []byte(r.Image), 0o644); err != nil {
			return fmt.Errorf("--iidfile: %w", err)
		}
	}
	if o.metadataFile != "" {
		text, err := json.MarshalIndent(r.Metadata(), "", "  ")
		if err == nil {
			err = os.WriteFile(o.metadataFile, append(text, '\n'), 0o644)
		}
		if err != nil {
			return fmt.Errorf("--metadata-file: %w", err)
		}
	}
	return nil
}

// imageRequest makes a build of flags.
func (a *app) imageRequest(source string, f *pflag.FlagSet, o imageBuild) (build.Request, error) {
	dir, err := os.Getwd()
	if err != nil {
		return build.Request{}, err
	}
	r := build.Request{
		Context: source, Target: o.target, Tags: o.tags, Args: map[string]string{}, Labels: map[string]string{},
		Platforms: o.platforms, Network: o.network, Cgroup: o.cgroup, Allow: o.allow, Ulimits: o.ulimits,
	}
	if o.call != "build" {
		r.Call = o.call
	}
	if err := placeSources(&r, o.file); err != nil {
		return r, err
	}
	if err := errors.Join(imageAttests(&r, o), o.apply(a, &r)); err != nil {
		return r, err
	}
	for _, label := range o.labels {
		key, value, _ := strings.Cut(label, "=")
		if key == "" {
			return r, fmt.Errorf("--label %q: must be KEY=VALUE", label)
		}
		r.Labels[key] = value
	}
	for _, text := range o.contexts {
		name, at, err := build.ParseContext(text, dir)
		if err != nil {
			return r, err
		}
		if r.Contexts == nil {
			r.Contexts = map[string]string{}
		}
		r.Contexts[name] = at
	}
	for _, h := range o.hosts {
		name, addr, ok := strings.Cut(h, "=")
		if !ok {
			name, addr, _ = strings.Cut(h, ":")
		}
		if name == "" || addr == "" {
			return r, fmt.Errorf("--add-host %q: must be NAME:ADDRESS", h)
		}
		r.ExtraHosts = append(r.ExtraHosts, name+"="+strings.Trim(addr, "[]"))
	}
	a.fromEnvironment(&r)
	return r, errors.Join(imageLimits(&r, f, o), a.imageSession(&r, o, dir), imageOutputs(&r, o, dir))
}

// placeSources finds the context and the Dockerfile, which is named from the
// working directory unless the context is elsewhere.
func placeSources(r *build.Request, file string) error {
	st, err := os.Stat(r.Context)
	local := err == nil && st.IsDir()
	if r.Context != build.Stdin && !local && !build.IsRemote(r.Context) {
		if err == nil {
			return fmt.Errorf("build context %s is no directory", r.Context)
		}
		return fmt.Errorf("build context %s: no such directory", r.Context)
	}
	switch {
	case file == build.Stdin:
		r.Dockerfile = file
	case build.IsRemote(file):
		return fmt.Errorf("--file %s: a Dockerfile elsewhere is not supported; download it", file)
	case local:
		if r.Context, err = filepath.Abs(r.Context); err != nil {
			return err
		}
		if r.Dockerfile, err = absolute(file); err != nil {
			return err
		}
	default:
		r.Dockerfile = file
	}
	return nil
}

// imageLimits reads what steps may take.
func imageLimits(r *build.Request, f *pflag.FlagSet, o imageBuild) error {
	for _, name := range []string{"cpu-shares", "cpu-period", "cpu-quota"} {
		if n, _ := f.GetInt64(name); n < 0 {
			return fmt.Errorf("--%s must not be negative", name)
		} else if n > 0 {
			r.Limit(strings.ReplaceAll(name, "-", ""), n)
		}
	}
	if o.memorySwap == "-1" {
		r.Limit("memswap", -1)
	} else if err := limitBytes(r, "--memory-swap", "memswap", o.memorySwap); err != nil {
		return err
	}
	for key, value := range map[string]string{"cpusetcpus": o.cpusetCPUs, "cpusetmems": o.cpusetMems} {
		if value == "" {
			continue
		}
		if r.Limits == nil {
			r.Limits = map[string]string{}
		}
		r.Limits[key] = value
	}
	if o.shmSize != "" {
		var err error
		if r.ShmSize, err = build.Bytes("--shm-size", o.shmSize); err != nil {
			return err
		}
	}
	return nil
}

// imageAttests reads attestations; what --provenance and --sbom say goes before.
func imageAttests(r *build.Request, o imageBuild) error {
	for _, text := range o.attests {
		attests, err := build.ParseAttest("", text)
		if err != nil {
			return err
		}
		for kind, value := range attests {
			if r.Attests == nil {
				r.Attests = map[string]string{}
			}
			r.Attests[kind] = value
		}
	}
	return nil
}

// imageSession reads what the build may ask of its caller.
func (a *app) imageSession(r *build.Request, o imageBuild, dir string) error {
	for _, text := range o.secrets {
		s, err := build.ParseSecret(text, dir, a.lookup)
		if err != nil {
			return err
		}
		r.Secrets = append(r.Secrets, s)
	}
	for _, text := range o.ssh {
		k, err := build.ParseSSH(text, dir)
		if err != nil {
			return err
		}
		r.SSH = append(r.SSH, k)
	}
	for _, c := range []struct {
		flag  string
		texts []string
		to    *[]build.Cache
	}{{"--cache-from", o.cacheFrom, &r.CacheFrom}, {"--cache-to", o.cacheTo, &r.CacheTo}} {
		for _, text := range c.texts {
			cache, err := build.ParseCache(c.flag, text, dir)
			if err != nil {
				return err
			}
			*c.to = append(*c.to, cache)
		}
	}
	return nil
}

// imageOutputs reads where the result goes: into the store, unless something
// else is said.
func imageOutputs(r *build.Request, o imageBuild, dir string) error {
	for _, text := range o.outputs {
		out, err := build.ParseOutput(text, dir)
		if err != nil {
			return err
		}
		r.Outputs = append(r.Outputs, out)
	}
	stores := slices.ContainsFunc(r.Outputs, func(o build.Output) bool { return o.Type == build.OutputImage })
	if len(r.Outputs) == 0 || o.load && !stores {
		r.Outputs = append(r.Outputs, build.Output{Type: build.OutputImage, Attrs: map[string]string{}})
	}
	if o.push {
		if len(r.Tags) == 0 {
			return errors.New("--push needs a name: give one with --tag")
		}
		r.Outputs[0].Attrs["push"] = "true"
	}
	for _, out := range r.Outputs {
		if out.Type == build.OutputImage && out.Attrs["push"] == "true" && out.Attrs["name"] == "" && len(r.Tags) == 0 {
			return errors.New("--output type=registry needs a name: give one with --tag or name=")
		}
	}
	return r.Check()
}
