package daemon

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// TLS names the files by which daemon and clients know each other on tcp://
// addresses, in PEM.
type TLS struct {
	Verify    bool   // clients have to show a certificate
	CA        string // of the authority that signs clients' certificates
	Cert, Key string // the daemon's own
}

// args are the flags that say the same to the next daemon.
func (t TLS) args() (args []string) {
	if t.Verify {
		args = append(args, "--tlsverify")
	}
	for _, f := range []struct{ flag, file string }{{"--tlscacert", t.CA}, {"--tlscert", t.Cert}, {"--tlskey", t.Key}} {
		if f.file != "" {
			args = append(args, f.flag, f.file)
		}
	}
	return args
}

// isTCP says whether an address of the API is reached over the network.
func isTCP(host string) (address string, ok bool) { return strings.CutPrefix(host, "tcp://") }

// checkTCP refuses an address that anybody could use: who reaches the API is
// root on this machine.
func (c *Config) checkTCP(host, address string) error {
	if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
		return fmt.Errorf("host %s: is not of the form tcp://ADDRESS:PORT", host)
	}
	var missing []string
	if !c.TLS.Verify {
		missing = append(missing, "--tlsverify")
	}
	for _, f := range []struct {
		flag string
		file *string
	}{{"--tlscacert", &c.TLS.CA}, {"--tlscert", &c.TLS.Cert}, {"--tlskey", &c.TLS.Key}} {
		if *f.file == "" {
			missing = append(missing, f.flag+" FILE")
			continue
		}
		abs, err := filepath.Abs(*f.file) // the next daemon is started elsewhere
		if err != nil {
			return err
		}
		*f.file = abs
	}
	if len(missing) > 0 {
		return fmt.Errorf("host %s: TCP is served only to clients with a certificate, for whoever gets in is root here: give %s", host, strings.Join(missing, " "))
	}
	return nil
}

// config is the server's side: TLS 1.2 or newer, and no client without a
// certificate of the authority.
func (t TLS) config() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("the daemon's certificate: %w", err)
	}
	pem, err := os.ReadFile(t.CA)
	if err != nil {
		return nil, fmt.Errorf("the authority of the clients' certificates: %w", err)
	}
	clients := x509.NewCertPool()
	if !clients.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("the authority of the clients' certificates: %s holds no certificate", t.CA)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert,
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"http/1.1"}, // a stream takes its connection over, which HTTP/2 has not
	}, nil
}

// listenTCP opens an address of the network, or takes it over from the daemon
// before.
func (s *sockets) listenTCP(host, address string) (net.Listener, error) {
	for _, f := range s.Take("api " + host) {
		l, err := net.FileListener(f)
		f.Close()
		if err == nil {
			return l, nil
		}
	}
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", host, err)
	}
	l, err := net.ListenTCP("tcp", at)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", host, err)
	}
	f, err := l.File()
	if err == nil {
		err = errors.Join(s.Hold("api "+host, f), f.Close())
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("listen on %s: %w", host, err)
	}
	return l, nil
}
