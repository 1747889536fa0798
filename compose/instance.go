package compose

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/containerd/errdefs"
)

// instanceVariable names the copy that is meant where no flag does. Files can
// read it: there it is the name as it has become part of the project's.
const instanceVariable = "GANTRY_INSTANCE"

// AutoInstance asks for the copy that is named after the branch the project's
// directory has checked out.
const AutoInstance = "auto"

// maxInstance bounds what a copy's name adds to others: containers are host
// names, too.
const maxInstance = 32

// nameCopy gives the project the name of the copy that is asked for, if one
// is.
func (in *input) nameCopy(ctx context.Context) error {
	asked := in.src.Instance
	if asked == "" {
		asked = in.env[instanceVariable]
	}
	if asked == "" {
		return nil
	}
	instance, err := in.instanceName(asked)
	if err != nil {
		return err
	}
	base, err := in.baseName(ctx)
	if err != nil {
		return err
	}
	in.instance, in.name, in.nameSaid = instance, base+"-"+instance, true
	in.env[instanceVariable] = instance
	return nil
}

// baseName is the project's name also where the files alone can say it.
func (in *input) baseName(ctx context.Context) (string, error) {
	if in.name != "" {
		return in.name, nil
	}
	if len(in.files) == 0 {
		return "", in.noFile()
	}
	_, details, err := in.merge(ctx, false)
	if err != nil {
		return "", in.explain(ctx, err)
	}
	return loader.NormalizeProjectName(details.Environment["COMPOSE_PROJECT_NAME"]), nil
}

// instanceName is what a copy is called in the names of its objects: in lower
// case, everything that a project's name cannot have being one dash. What is
// too long is cut, and a few digits tell it from others.
func (in *input) instanceName(asked string) (string, error) {
	text, from, next := asked, "--instance", "name the copy with --instance NAME"
	if in.src.Instance == "" {
		from, next = instanceVariable, next+", or leave the variable empty"
	}
	if asked == AutoInstance {
		var err error
		if text, err = branch(in.projectDir); err != nil {
			return "", &Error{Object: from + " " + AutoInstance, Cause: err.Error(), Next: next, class: errdefs.ErrInvalidArgument}
		}
	}
	name := strings.Trim(notInNames.ReplaceAllString(strings.ToLower(text), "-"), "-_")
	if name == "" {
		return "", &Error{Object: from, Cause: fmt.Sprintf("nothing of %q can be part of a project's name", text),
			Next: "use letters and digits", class: errdefs.ErrInvalidArgument}
	}
	if len(name) > maxInstance {
		sum := sha256.Sum256([]byte(text))
		name = strings.TrimRight(name[:maxInstance-7], "-_") + "-" + hex.EncodeToString(sum[:3])
	}
	return name, nil
}

var notInNames = regexp.MustCompile(`[^a-z0-9_-]+`)

// branch is the one that is checked out where a directory lies. It is read off
// git's files: HEAD of the repository or, in a worktree or a submodule, of
// where its .git file points.
func branch(dir string) (string, error) {
	head, err := gitHead(dir)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(head)
	if err != nil {
		return "", fmt.Errorf("%s: %s", head, cause(err))
	}
	ref, isRef := strings.CutPrefix(strings.TrimSpace(string(data)), "ref:")
	name, isBranch := strings.CutPrefix(strings.TrimSpace(ref), "refs/heads/")
	switch {
	case !isRef || !isBranch || name == "":
		return "", fmt.Errorf("no branch is checked out in %s (detached HEAD)", dir)
	case name == ".invalid": // what stands there when git keeps its references in tables
		return "", fmt.Errorf("%s does not say the branch: this repository keeps its references in tables", head)
	}
	return name, nil
}

// gitHead finds the HEAD file of the repository around a directory.
func gitHead(dir string) (string, error) {
	for at := dir; ; {
		path := filepath.Join(at, ".git")
		info, err := os.Stat(path)
		switch {
		case err == nil && info.IsDir():
			return filepath.Join(path, "HEAD"), nil
		case err == nil:
			data, err := os.ReadFile(path)
			if err != nil {
				return "", fmt.Errorf("%s: %s", path, cause(err))
			}
			to, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "gitdir:")
			if !ok {
				return "", fmt.Errorf("%s does not point to a git repository", path)
			}
			if to = strings.TrimSpace(to); !filepath.IsAbs(to) {
				to = filepath.Join(at, to)
			}
			return filepath.Join(to, "HEAD"), nil
		}
		up := filepath.Dir(at)
		if up == at {
			return "", fmt.Errorf("%s is in no git repository", dir)
		}
		at = up
	}
}

// InstanceOf is which copy a project is that was just loaded, "" for the
// project itself.
func InstanceOf(p *Project) string { return p.Environment[instanceVariable] }
