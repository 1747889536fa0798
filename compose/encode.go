package compose

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/containerd/errdefs"
)

// encodingVersion counts changes of the encoding that an older gantry could not
// read.
const encodingVersion = 1

// header is the first document of an encoded project, JSON (which is YAML) on
// one line: the version and what compose-go's own form leaves out.
type header struct {
	Version    int      `json:"gantry"`
	Name       string   `json:"name"`
	WorkingDir string   `json:"working_dir,omitempty"`
	Files      []string `json:"files,omitempty"`
	Profiles   []string `json:"profiles,omitempty"`
}

var separator = []byte("\n---\n")

// Encode writes a project as canonical YAML, contents of secrets included: the
// form it travels and is stored in. Equal projects give equal bytes.
//
// It is two documents: a header with the version, and the project in
// compose-go's canonical form. JSON would not do: it loses names, environment
// and x-* keys. Services that are disabled and the caller's environment are
// left behind.
func Encode(p *Project) ([]byte, error) {
	out := *p
	out.Configs = Configs{}
	for name, c := range p.Configs {
		// compose-go would write the variable's name in place of its value.
		if c.Content != "" {
			c.Environment = ""
		}
		out.Configs[name] = c
	}
	head, err := json.Marshal(header{encodingVersion, p.Name, p.WorkingDir, p.ComposeFiles, p.Profiles})
	if err != nil {
		return nil, fmt.Errorf("encode project %s: %w", p.Name, err)
	}
	body, err := marshal(&out)
	if err != nil {
		return nil, fmt.Errorf("encode project %s: %w", p.Name, err)
	}
	return slices.Concat(head, separator, body), nil
}

func marshal(p *Project) (data []byte, err error) {
	defer recovered(&err)
	return p.MarshalYAML(types.WithSecretContent)
}

// Decode reads what Encode wrote. Data it does not understand, a newer
// version among it, is an error of class ErrInvalidArgument.
func Decode(data []byte) (*Project, error) {
	p, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("decode project: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	return p, nil
}

func decode(data []byte) (p *Project, err error) {
	defer recovered(&err)
	head, body, ok := bytes.Cut(data, separator)
	if !ok {
		return nil, fmt.Errorf("the header is missing")
	}
	var h header
	if err := json.Unmarshal(head, &h); err != nil {
		return nil, fmt.Errorf("header: %s", oneLine(err.Error()))
	}
	if h.Version != encodingVersion {
		return nil, fmt.Errorf("version %d is unknown, this gantry reads version %d", h.Version, encodingVersion)
	}
	details := types.ConfigDetails{
		WorkingDir:  h.WorkingDir,
		ConfigFiles: []types.ConfigFile{{Filename: "project", Content: body}},
		Environment: types.Mapping{},
	}
	options := func(o *loader.Options) {
		o.SetProjectName(h.Name, true)
		o.SkipValidation = true
		o.SkipInterpolation = true
		o.SkipNormalization = true
		o.SkipConsistencyCheck = true
		o.SkipExtends = true
		o.SkipInclude = true
		o.SkipResolveEnvironment = true
		o.SkipResolveLabels = true
		o.ResolvePaths = false
		o.Profiles = []string{"*"} // what was encoded was enabled
	}
	model, err := loader.LoadModelWithContext(context.Background(), details, options)
	if err != nil {
		return nil, err
	}
	p, err = toProject(model, loader.ToOptions(&details, []func(*loader.Options){options}), details)
	if err != nil {
		return nil, err
	}
	p.Profiles = h.Profiles
	p.ComposeFiles = h.Files
	p.Environment = nil
	return p, nil
}
