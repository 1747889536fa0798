package client

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
	helpers "github.com/docker/docker-credential-helpers/client"
	"github.com/docker/docker-credential-helpers/credentials"
	"github.com/moby/moby/api/types/registry"
)

// hub is what Docker's configuration calls Docker Hub, for as long as there has
// been one.
const hub = "https://index.docker.io/v1/"

// helperPatience bounds what a credential helper may take: some ask their user.
const helperPatience = 2 * time.Minute

// Logins are the credentials of this user, as docker keeps them: in
// config.json of DOCKER_CONFIG or ~/.docker, or with the credential helpers
// that the file names. They stay with the user: the daemon is shown those of
// one registry with one request.
type Logins struct {
	path string
	// doc is the file as it is; what is unknown here stays in it.
	doc map[string]json.RawMessage

	auths   map[string]registry.AuthConfig
	store   string            // credsStore: for all registries
	helpers map[string]string // credHelpers: for one each
}

// LoadLogins reads the file. One that is not there is empty.
func LoadLogins() (*Logins, error) {
	dir := os.Getenv("DOCKER_CONFIG")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return &Logins{}, nil //nolint:nilerr // who has no home has no logins there
		}
		dir = filepath.Join(home, ".docker")
	}
	l := &Logins{path: filepath.Join(dir, "config.json")}
	text, err := os.ReadFile(l.path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && os.Getenv("DOCKER_CONFIG") == "" {
		return l, nil
	}
	if err != nil {
		return nil, fmt.Errorf("logins: %w", err)
	}
	if len(bytes.TrimSpace(text)) == 0 {
		return l, nil
	}
	var known struct {
		Auths       map[string]registry.AuthConfig `json:"auths"`
		CredsStore  string                         `json:"credsStore"`
		CredHelpers map[string]string              `json:"credHelpers"`
	}
	if err := errors.Join(json.Unmarshal(text, &l.doc), json.Unmarshal(text, &known)); err != nil {
		return nil, invalid("logins: %s is not the JSON that docker writes: correct or remove it", l.path)
	}
	l.auths, l.store, l.helpers = known.Auths, known.CredsStore, known.CredHelpers
	return l, nil
}

// Path is where the logins are kept.
func (l *Logins) Path() string { return l.path }

// Server is how a registry is called in the file: the host of images' names,
// and for Docker Hub its old address.
func Server(registry string) string {
	host := registry
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	host, _, _ = strings.Cut(host, "/")
	switch host {
	case "", "docker.io", "index.docker.io", "registry-1.docker.io":
		return hub
	}
	return host
}

// serverOf is the registry of an image's name.
func serverOf(ref string) (string, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", invalid("image name %q: %v", ref, err)
	}
	return Server(reference.Domain(named)), nil
}

// For are the credentials for a registry, those of nobody if there are none.
func (l *Logins) For(ctx context.Context, server string) (registry.AuthConfig, error) {
	none := registry.AuthConfig{ServerAddress: server}
	if helper := l.helper(server); helper != "" {
		return l.ask(ctx, helper, server)
	}
	for key, a := range l.auths {
		if key != server && Server(key) != server {
			continue
		}
		a.ServerAddress = server
		if a.Auth != "" {
			data, err := base64.StdEncoding.DecodeString(a.Auth)
			name, password, ok := strings.Cut(string(data), ":")
			if err != nil || !ok {
				return none, invalid("logins: %s: the entry of %s cannot be read: run `gantry login` for it again", l.path, key)
			}
			a.Username, a.Password, a.Auth = name, strings.TrimRight(password, "\x00"), ""
		}
		return a, nil
	}
	return none, nil
}

func (l *Logins) helper(server string) string {
	for key, h := range l.helpers {
		if key == server || Server(key) == server {
			return h
		}
	}
	return l.store
}

var helperName = regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)

// speak makes what speaks to a credential helper: a program whose argument is a
// verb, and whose input what it is about. So no secret is ever an argument.
func (l *Logins) speak(ctx context.Context, helper string) (helpers.ProgramFunc, error) {
	if !helperName.MatchString(helper) {
		return nil, invalid("logins: %s names the credential helper %q, which is no name", l.path, helper)
	}
	program, err := exec.LookPath("docker-credential-" + helper)
	if err != nil {
		return nil, errdefs.ErrFailedPrecondition.WithMessage(fmt.Sprintf("logins: %s names the credential helper %s, and there is no program docker-credential-%s: install it or take it out of the file", l.path, helper, helper))
	}
	return func(args ...string) helpers.Program {
		return &helperCall{exec.CommandContext(ctx, program, args...)}
	}, nil
}

// helperCall is one run of a helper; it may ask its user, but not for ever.
type helperCall struct{ cmd *exec.Cmd }

func (h *helperCall) Input(in io.Reader) { h.cmd.Stdin = in }

func (h *helperCall) Output() ([]byte, error) {
	stop := time.AfterFunc(helperPatience, func() { _ = h.cmd.Cancel() })
	defer stop.Stop()
	return h.cmd.Output()
}

func helperFailed(helper, verb string, err error) error {
	return errdefs.ErrUnavailable.WithMessage(fmt.Sprintf("logins: docker-credential-%s %s: %v", helper, verb, err))
}

func (l *Logins) ask(ctx context.Context, helper, server string) (registry.AuthConfig, error) {
	out := registry.AuthConfig{ServerAddress: server}
	speak, err := l.speak(ctx, helper)
	if err != nil {
		return out, err
	}
	got, err := helpers.Get(speak, server)
	switch {
	case credentials.IsErrCredentialsNotFound(err):
	case err != nil:
		return out, helperFailed(helper, "get", err)
	case got.Username == "<token>":
		out.IdentityToken = got.Secret
	default:
		out.Username, out.Password = got.Username, got.Secret
	}
	return out, nil
}

// Keep stores credentials, with the helper if the file names one.
func (l *Logins) Keep(ctx context.Context, a registry.AuthConfig) (where string, err error) {
	server := a.ServerAddress
	if helper := l.helper(server); helper != "" {
		c := &credentials.Credentials{ServerURL: server, Username: a.Username, Secret: a.Password}
		if a.IdentityToken != "" {
			c.Username, c.Secret = "<token>", a.IdentityToken
		}
		speak, err := l.speak(ctx, helper)
		if err != nil {
			return "", err
		}
		if err := helpers.Store(speak, c); err != nil {
			return "", helperFailed(helper, "store", err)
		}
		return "docker-credential-" + helper, l.set(server, registry.AuthConfig{})
	}
	kept := registry.AuthConfig{IdentityToken: a.IdentityToken}
	if a.IdentityToken == "" {
		kept.Auth = base64.StdEncoding.EncodeToString([]byte(a.Username + ":" + a.Password))
	} else {
		kept.Auth = base64.StdEncoding.EncodeToString([]byte(a.Username + ":"))
	}
	return l.path, l.set(server, kept)
}

// Forget removes the credentials of a registry and says whether there were any.
func (l *Logins) Forget(ctx context.Context, server string) (bool, error) {
	found := false
	if helper := l.helper(server); helper != "" {
		if a, err := l.ask(ctx, helper, server); err != nil {
			return false, err
		} else if a.Username != "" || a.IdentityToken != "" {
			speak, err := l.speak(ctx, helper)
			if err != nil {
				return false, err
			}
			if err := helpers.Erase(speak, server); err != nil {
				return false, helperFailed(helper, "erase", err)
			}
			found = true
		}
	}
	for key := range l.auths {
		if key == server || Server(key) == server {
			found = true
			delete(l.auths, key)
		}
	}
	if !found {
		return false, nil
	}
	return true, l.save()
}

func (l *Logins) set(server string, a registry.AuthConfig) error {
	if l.auths == nil {
		l.auths = map[string]registry.AuthConfig{}
	}
	l.auths[server] = a
	return l.save()
}

// save writes the file as it was but for the logins, for its owner's eyes: into
// a new file that takes its place, so that no moment has half of it.
func (l *Logins) save() error {
	if l.path == "" {
		return invalid("logins: there is no home directory to keep them in: set DOCKER_CONFIG")
	}
	auths, err := json.Marshal(l.auths)
	if err != nil {
		return err
	}
	if l.doc == nil {
		l.doc = map[string]json.RawMessage{}
	}
	l.doc["auths"] = auths
	text, err := json.MarshalIndent(l.doc, "", "\t")
	if err != nil {
		return err
	}
	path := l.path
	if to, err := filepath.EvalSymlinks(path); err == nil { // a link stays one
		path = to
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("logins: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".config.json-*") // mode 0600
	if err != nil {
		return fmt.Errorf("logins: %w", err)
	}
	defer os.Remove(f.Name()) // gone if all went well
	_, err = f.Write(append(text, '\n'))
	err = cmp.Or(err, f.Sync())
	if err := cmp.Or(err, f.Close()); err != nil {
		return fmt.Errorf("logins: %w", err)
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("logins: %w", err)
	}
	return nil
}
