// Package registry is a registry for images: distribution's, with files below
// one directory, for a machine that has none to push to. It knows nothing of
// the rest of gantry, and the rest nothing of it; a process serves one and does
// nothing else.
package registry

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/distribution/distribution/v3/configuration"
	"github.com/distribution/distribution/v3/registry/handlers"
	"github.com/sirupsen/logrus"

	_ "github.com/distribution/distribution/v3/registry/auth/htpasswd"             // basic auth
	_ "github.com/distribution/distribution/v3/registry/storage/driver/filesystem" // where blobs are
)

// Options say what is served.
type Options struct {
	Addr string // HOST:PORT
	Root string // directory of what is pushed

	Cert, Key string // files of TLS
	Users     string // file of names and bcrypt hashes, as htpasswd -B writes it; empty lets everybody in
	// Insecure lets it serve other machines without TLS.
	Insecure bool

	Log io.Writer // of what goes wrong
}

// draining is how long transfers under way may take once it is to end.
const draining = 10 * time.Second

// Serve serves until ctx ends. ready is told the address it listens at.
func Serve(ctx context.Context, o Options, ready func(addr net.Addr)) error {
	secret, err := o.check()
	if err != nil {
		return err
	}
	app, err := o.open(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = app.Shutdown() }() // ends its notifications, of which there are none
	l, err := net.Listen("tcp", o.Addr)   //nolint:noctx // listening does not wait
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	if secret != nil {
		l = tls.NewListener(l, secret)
	}
	server := &http.Server{Handler: app, ReadHeaderTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	if ready != nil {
		ready(l.Addr())
	}
	select {
	case err := <-ended:
		return fmt.Errorf("serve %s: %w", o.Addr, err)
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), draining)
	defer cancel()
	if err := server.Shutdown(grace); err != nil {
		err = server.Close()
		<-ended
		return err
	}
	<-ended
	return nil
}

// check refuses what would not be safe, or would not work.
func (o Options) check() (*tls.Config, error) {
	host, _, err := net.SplitHostPort(o.Addr)
	if err != nil {
		return nil, fmt.Errorf("address %q is not of the form HOST:PORT: %w", o.Addr, err)
	}
	if (o.Cert == "") != (o.Key == "") {
		return nil, errors.New("TLS needs both, a certificate and its key")
	}
	if o.Users != "" {
		if err := checkUsers(o.Users); err != nil {
			return nil, err
		}
	}
	if o.Cert != "" {
		pair, err := tls.LoadX509KeyPair(o.Cert, o.Key)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		return &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}}, nil
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && !o.Insecure {
		return nil, fmt.Errorf("address %q serves other machines, and without TLS everybody on the way reads and changes what they pull: give --tlscert and --tlskey, or --insecure", o.Addr)
	}
	return nil, nil
}

// checkUsers reads the file once: the library makes one with a user of its own
// where there is none, and passes over hashes that it does not know.
func checkUsers(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("users: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	users := 0
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, hash, ok := strings.Cut(line, ":")
		if !ok || name == "" || !strings.HasPrefix(hash, "$2") {
			return fmt.Errorf("%s:%d: not NAME:HASH with a bcrypt hash; htpasswd -nB NAME prints one", path, n)
		}
		users++
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("users: %s: %w", path, err)
	}
	if users == 0 {
		return fmt.Errorf("users: %s names nobody", path)
	}
	return nil
}

// open makes the library's handler. It panics at what it does not like.
func (o Options) open(ctx context.Context) (app *handlers.App, err error) {
	root, err := filepath.Abs(o.Root)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("root directory: %w", err)
	}
	logrus.SetLevel(logrus.ErrorLevel)
	logrus.SetFormatter(faults{&logrus.TextFormatter{DisableColors: true}})
	if o.Log != nil {
		logrus.SetOutput(o.Log)
	}
	c := &configuration.Configuration{Version: configuration.CurrentVersion}
	c.HTTP.Secret = rand.Text() // signs the state of uploads, which end with this process
	c.Storage = configuration.Storage{
		"filesystem": {"rootdirectory": root},
		"delete":     {"enabled": true},
		"cache":      {"blobdescriptor": "inmemory"},
	}
	c.Catalog.MaxEntries, c.Tags.MaxTags = 1000, 1000
	if o.Users != "" {
		c.Auth = configuration.Auth{"htpasswd": {"realm": "gantry", "path": o.Users}}
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("open the registry below %s: %v", root, p)
		}
	}()
	return handlers.NewApp(ctx, c), nil
}

// faults writes what is wrong with the registry. To the library an answer such
// as "there is no such blob", with which every push begins, is an error, too.
type faults struct{ logrus.Formatter }

func (f faults) Format(e *logrus.Entry) ([]byte, error) {
	if status, ok := e.Data["http.response.status"].(int); ok && status < http.StatusInternalServerError {
		return nil, nil
	}
	return f.Formatter.Format(e)
}
