package kit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"gantry/client/build"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/auth"
	"github.com/moby/buildkit/session/secrets"
	"github.com/moby/buildkit/session/secrets/secretsprovider"
	"github.com/moby/buildkit/session/sshforward/sshprovider"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// attach gives a build what its steps may ask of their caller, and its cache.
func (k *kit) attach(r build.Request, opt *bkclient.SolveOpt) error {
	opt.Session = append(opt.Session, &logins{login: k.daemon.Login})
	if len(r.Secrets) > 0 {
		store := secretStore{}
		for _, s := range r.Secrets {
			if _, twice := store[s.ID]; twice {
				return invalid("secret %s is given twice", s.ID)
			}
			store[s.ID] = s
		}
		opt.Session = append(opt.Session, secretsprovider.NewSecretProvider(store))
	}
	if len(r.SSH) > 0 {
		provider, err := agents(r.SSH)
		if err != nil {
			return err
		}
		opt.Session = append(opt.Session, provider)
	}
	for _, c := range r.CacheFrom {
		if src := c.Attrs["src"]; c.Type == "local" && !exists(filepath.Join(src, ocispec.ImageIndexFile)) {
			fmt.Fprintf(k.streams.Err, "gantry: warning: no build cache in %s: not used\n", src)
			continue
		}
		opt.CacheImports = append(opt.CacheImports, bkclient.CacheOptionsEntry(c))
	}
	for _, c := range r.CacheTo {
		opt.CacheExports = append(opt.CacheExports, bkclient.CacheOptionsEntry(c))
	}
	return nil
}

func agents(keys []build.Key) (session.Attachable, error) {
	var all []sshprovider.AgentConfig
	for _, key := range keys {
		if len(key.Paths) == 0 && os.Getenv("SSH_AUTH_SOCK") == "" {
			return nil, invalid("ssh %s: there is no agent: set SSH_AUTH_SOCK, or name a key with %s=FILE", key.ID, key.ID)
		}
		for _, path := range key.Paths {
			if _, err := os.Stat(path); err != nil {
				return nil, invalid("ssh %s: %v", key.ID, err)
			}
		}
		all = append(all, sshprovider.AgentConfig{ID: key.ID, Paths: key.Paths})
	}
	return sshprovider.NewSSHAgentProvider(all)
}

// secretStore reads secrets when a step asks for them.
type secretStore map[string]build.Secret

func (m secretStore) GetSecret(_ context.Context, id string) ([]byte, error) {
	s, ok := m[id]
	if !ok {
		return nil, secrets.ErrNotFound
	}
	if s.File == "" {
		return s.Content, nil
	}
	text, err := os.ReadFile(s.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, status.Errorf(codes.NotFound, "secret %s: %v", id, err)
	}
	return text, err
}

// logins answers for registries with the caller's credentials, one registry at a
// time. The daemon asks when it meets a registry that wants them.
type logins struct {
	auth.UnimplementedAuthServer
	login func(context.Context, string) (Login, error)
}

func (l *logins) Register(s *grpc.Server) { auth.RegisterAuthServer(s, l) }

func (l *logins) Credentials(ctx context.Context, req *auth.CredentialsRequest) (*auth.CredentialsResponse, error) {
	if l.login == nil {
		return &auth.CredentialsResponse{}, nil
	}
	found, err := l.login(ctx, req.Host)
	if err != nil {
		return nil, err
	}
	if found.IdentityToken != "" {
		return &auth.CredentialsResponse{Secret: found.IdentityToken}, nil
	}
	return &auth.CredentialsResponse{Username: found.Username, Secret: found.Password}, nil
}
