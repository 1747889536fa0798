package kit

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"gantry/client/build"

	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/ociindex"
	"github.com/moby/buildkit/session/upload/uploadprovider"
	"github.com/moby/buildkit/util/staticfs"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"
)

// Names of the frontend's local sources.
const (
	localContext    = "context"
	localDockerfile = "dockerfile"
	dockerfileName  = "Dockerfile"
)

// maxDockerfile is the frontend's own bound.
const maxDockerfile = 16 << 20

// sources gives a build its files: the context, the Dockerfile and the named
// contexts. needed are those of these that are images of other builds.
func (k *kit) sources(ctx context.Context, r build.Request, opt *bkclient.SolveOpt, image func(string) string) (needed map[string]string, err error) {
	inline := []byte(r.Inline)
	dockerfile := r.Dockerfile
	remote := build.IsRemote(r.Context) && !isDirectory(r.Context)
	switch {
	case r.Context == build.Stdin:
		archive, text, err := k.readContext()
		if err != nil {
			return nil, err
		}
		if archive != nil {
			up := uploadprovider.New()
			opt.FrontendAttrs["context"] = up.Add(archive)
			opt.Session = append(opt.Session, up)
			remote = true
			break
		}
		if len(inline) > 0 || dockerfile != "" {
			return nil, invalid("standard input is no archive, and the Dockerfile is given elsewhere")
		}
		inline = text
		opt.LocalMounts[localContext] = staticfs.NewFS()
	case remote:
		opt.FrontendAttrs["context"] = r.Context
	default:
		dir, err := directory("build context", r.Context)
		if err != nil {
			return nil, err
		}
		opt.LocalMounts[localContext] = dir
		// The daemon keeps what it was sent under this key, and asks for what
		// has changed since.
		opt.SharedKey = placeKey(r.Context)
	}
	if dockerfile == build.Stdin {
		if inline, err = k.readDockerfile(); err != nil {
			return nil, err
		}
		dockerfile = ""
	}
	switch {
	case len(inline) > 0:
		f := staticfs.NewFS()
		f.Add(dockerfileName, &types.Stat{Mode: 0o644}, inline)
		opt.LocalMounts[localDockerfile] = f
		opt.FrontendAttrs["filename"] = dockerfileName
		if remote {
			opt.FrontendAttrs["dockerfilekey"] = localDockerfile
		}
	case remote && filepath.IsAbs(dockerfile) && exists(dockerfile):
		if err := localFile(dockerfile, opt); err != nil {
			return nil, err
		}
		opt.FrontendAttrs["dockerfilekey"] = localDockerfile
	case remote:
		if dockerfile != "" {
			opt.FrontendAttrs["filename"] = dockerfile
		}
	case dockerfile == "":
		if err := localFile(filepath.Join(r.Context, dockerfileName), opt); err != nil {
			return nil, err
		}
	default:
		if err := localFile(dockerfile, opt); err != nil {
			return nil, err
		}
	}
	return k.named(ctx, r, opt, image)
}

// localFile has the Dockerfile read from a file of the caller's.
func localFile(path string, opt *bkclient.SolveOpt) error {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && filepath.Base(path) == dockerfileName {
		// Its second default, which the frontend finds by itself.
		if low, err2 := os.Stat(filepath.Join(filepath.Dir(path), strings.ToLower(dockerfileName))); err2 == nil {
			st, err = low, nil
		}
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("no Dockerfile %s: write it, or name another one", path))
	case err != nil:
		return fmt.Errorf("dockerfile: %w", err)
	case st.IsDir():
		return invalid("Dockerfile %s is a directory", path)
	}
	dir, err := fsutil.NewFS(filepath.Dir(path))
	if err != nil {
		return err
	}
	opt.LocalMounts[localDockerfile] = dir
	opt.FrontendAttrs["filename"] = filepath.Base(path)
	return nil
}

// named gives a build its further sources.
func (k *kit) named(ctx context.Context, r build.Request, opt *bkclient.SolveOpt, image func(string) string) (needed map[string]string, err error) {
	for name, source := range r.Contexts {
		key := "context:" + name
		if service, ok := strings.CutPrefix(source, build.ServicePrefix); ok {
			if r.Call != "" { // nothing is built, and it does not matter on what
				opt.FrontendAttrs[key] = "docker-image://scratch"
				continue
			}
			ref := image(service)
			if ref == "" {
				return nil, invalid("build context %s: the build of service %s has made no image", name, service)
			}
			if needed == nil {
				needed = map[string]string{}
			}
			needed[name] = ref
			continue
		}
		if layout, ok := strings.CutPrefix(source, "oci-layout://"); ok {
			if err := ociLayout(ctx, name, layout, opt); err != nil {
				return nil, fmt.Errorf("build context %s: %w", name, err)
			}
			continue
		}
		if !isDirectory(source) && (build.IsRemote(source) || strings.Contains(source, "://")) {
			opt.FrontendAttrs[key] = source
			continue
		}
		dir, err := directory("build context "+name, source)
		if err != nil {
			return nil, err
		}
		local := "named-" + name // apart from the frontend's own
		opt.LocalMounts[local] = dir
		opt.FrontendAttrs[key] = "local:" + local
		opt.FrontendAttrs["sharedkey:localdir:"+name] = placeKey(source)
	}
	return needed, nil
}

// ociLayout gives a build an image of a directory: PATH[:TAG][@DIGEST].
func ociLayout(ctx context.Context, name, layout string, opt *bkclient.SolveOpt) error {
	path, digest, _ := strings.Cut(layout, "@")
	tag := "latest"
	if !isDirectory(path) {
		if i := strings.LastIndexByte(path, ':'); i > strings.LastIndexByte(path, '/') {
			path, tag = path[:i], path[i+1:]
		}
	}
	if !isDirectory(path) {
		return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("no directory %s", path))
	}
	store, err := contentlocal.NewStore(path)
	if err != nil {
		return err
	}
	if digest == "" {
		index := ociindex.NewStoreIndex(path)
		desc, err := index.Get(tag)
		if err == nil && desc == nil {
			desc, err = index.GetSingle()
		}
		if err != nil {
			return err
		}
		if desc == nil {
			return errdefs.ErrNotFound.WithMessage(fmt.Sprintf("the layout %s has no image %q: name one with :TAG or @DIGEST", path, tag))
		}
		digest = desc.Digest.String()
	}
	sum := sha256.Sum256([]byte(path))
	id := hex.EncodeToString(sum[:])[:16]
	opt.OCIStores[id] = store
	opt.FrontendAttrs["context:"+name] = "oci-layout://" + id + "@" + digest
	return nil
}

func directory(what, path string) (fsutil.FS, error) {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, errdefs.ErrNotFound.WithMessage(fmt.Sprintf("%s: no directory %s", what, path))
	case err != nil:
		return nil, fmt.Errorf("%s: %w", what, err)
	case !st.IsDir():
		return nil, invalid("%s: %s is no directory", what, path)
	}
	return fsutil.NewFS(path)
}

func isDirectory(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// placeKey tells a directory from those of other machines and other places on
// this one.
func placeKey(dir string) string {
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	machine, err := os.ReadFile("/etc/machine-id")
	if err != nil {
		host, _ := os.Hostname()
		machine = []byte(host)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "gantry\n%s\n%d\n%s", bytes.TrimSpace(machine), os.Getuid(), dir))
	return hex.EncodeToString(sum[:])
}

// readContext reads standard input: an archive, to be sent on as it comes, or a
// Dockerfile.
func (k *kit) readContext() (archive io.ReadCloser, dockerfile []byte, err error) {
	in := bufio.NewReaderSize(k.streams.In, 4096)
	head, err := in.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, fmt.Errorf("standard input: %w", err)
	}
	if isArchive(head) {
		return struct {
			io.Reader
			io.Closer
		}{in, k.streams.In}, nil, nil
	}
	dockerfile, err = limited(in)
	return nil, dockerfile, err
}

func (k *kit) readDockerfile() ([]byte, error) { return limited(k.streams.In) }

func limited(r io.Reader) ([]byte, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxDockerfile+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("standard input: %w", err)
	case len(text) > maxDockerfile:
		return nil, invalid("the Dockerfile on standard input is longer than %d MiB", maxDockerfile>>20)
	case len(bytes.TrimSpace(text)) == 0:
		return nil, invalid("standard input is empty: it should be a Dockerfile or an archive")
	}
	return text, nil
}

// isArchive tells an archive, which may be compressed, from a Dockerfile.
func isArchive(head []byte) bool {
	for _, magic := range []string{"BZh", "\x1f\x8b\x08", "\xfd7zXZ\x00", "\x28\xb5\x2f\xfd"} {
		if bytes.HasPrefix(head, []byte(magic)) {
			return true
		}
	}
	return len(head) >= 262 && string(head[257:262]) == "ustar"
}
