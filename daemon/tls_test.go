package daemon

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, dir, name string) *authority {
	t.Helper()
	a := &authority{t: t, dir: dir}
	a.key = must2(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der := must2(x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key))(t)
	a.cert = must2(x509.ParseCertificate(der))(t)
	a.write(name+".pem", "CERTIFICATE", der)
	return a
}

func must2[T any](v T, err error) func(t *testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func (a *authority) write(name, kind string, der []byte) string {
	a.t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// issue makes a certificate and its key.
func (a *authority) issue(name string, until time.Duration, use x509.ExtKeyUsage) (cert, key string) {
	a.t.Helper()
	k := must2(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(a.t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(until),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{use}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der := must2(x509.CreateCertificate(rand.Reader, template, a.cert, k.Public(), a.key))(a.t)
	return a.write(name+".pem", "CERTIFICATE", der), a.write(name+"-key.pem", "EC PRIVATE KEY", must2(x509.MarshalECPrivateKey(k))(a.t))
}

// freePort is a port nobody listens on now.
func freePort(t *testing.T) string {
	t.Helper()
	l := must2(net.Listen("tcp", "127.0.0.1:0"))(t)
	defer l.Close()
	return l.Addr().String()
}

func TestTCPWantsCertificates(t *testing.T) {
	c := testConfig(t)
	dir := t.TempDir()
	ours, theirs := newAuthority(t, dir, "ours"), newAuthority(t, dir, "theirs")
	c.TLS = TLS{Verify: true, CA: filepath.Join(dir, "ours.pem")}
	c.TLS.Cert, c.TLS.Key = ours.issue("daemon", time.Hour, x509.ExtKeyUsageServerAuth)
	address := freePort(t)
	c.Hosts = append(c.Hosts, "tcp://"+address)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ready, over := make(chan struct{}), make(chan error, 1)
	go func() { over <- Run(ctx, c, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-over:
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(ours.cert)
	pair := func(cert, key string) []tls.Certificate {
		return []tls.Certificate{must2(tls.LoadX509KeyPair(cert, key))(t)}
	}
	get := func(scheme string, config *tls.Config) (string, error) {
		transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: config}
		client := &http.Client{Timeout: 10 * time.Second, Transport: transport}
		r, err := client.Get(scheme + "://" + address + "/_ping")
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		return fmt.Sprint(r.StatusCode, " ", string(b)), err
	}
	right := pair(ours.issue("right", time.Hour, x509.ExtKeyUsageClientAuth))
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		if got, err := get("https", &tls.Config{RootCAs: roots, Certificates: right, MaxVersion: version}); err != nil || got != "200 OK" {
			t.Errorf("with the right certificate: %q %v", got, err)
		}
	}
	for what, config := range map[string]*tls.Config{
		"no certificate":            {},
		"another authority's":       {Certificates: pair(theirs.issue("wrong", time.Hour, x509.ExtKeyUsageClientAuth))},
		"an expired one":            {Certificates: pair(ours.issue("late", -time.Hour, x509.ExtKeyUsageClientAuth))},
		"a server's":                {Certificates: pair(ours.issue("server", time.Hour, x509.ExtKeyUsageServerAuth))},
		"the right one, by TLS 1.1": {Certificates: right, MinVersion: tls.VersionTLS11, MaxVersion: tls.VersionTLS11},
	} {
		config.RootCAs = roots
		if len(config.Certificates) > 0 {
			// A client would not even offer one that the daemon does not ask for.
			own := config.Certificates[0]
			config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
		}
		if got, err := get("https", config); err == nil {
			t.Errorf("with %s: %s", what, got)
		}
	}
	if got, err := get("http", nil); err == nil && strings.HasPrefix(got, "200") {
		t.Errorf("without TLS: %s", got)
	}
	// A client that says nothing holds nobody up.
	silent := must2(net.Dial("tcp", address))(t)
	defer silent.Close()
	if got, err := get("https", &tls.Config{RootCAs: roots, Certificates: right}); err != nil || got != "200 OK" {
		t.Errorf("beside a silent one: %q %v", got, err)
	}
	cancel()
	silent.Close()
	if err := <-over; err != nil {
		t.Error(err)
	}
	if l, err := net.Listen("tcp", address); err != nil {
		t.Errorf("a daemon that was told to end leaves its port: %v", err)
	} else {
		l.Close()
	}
	// The next one takes the keeper along.
	c.Hosts = c.Hosts[:1]
	ended(t, opened(t, c))
}

func TestTCPIsRefusedWithoutCertificates(t *testing.T) {
	dir := t.TempDir()
	ours := newAuthority(t, dir, "ours")
	cert, key := ours.issue("daemon", time.Hour, x509.ExtKeyUsageServerAuth)
	whole := TLS{Verify: true, CA: filepath.Join(dir, "ours.pem"), Cert: cert, Key: key}
	for _, tt := range []struct {
		host   string
		change func(*TLS)
		want   string
	}{
		{"tcp://127.0.0.1:2376", func(t *TLS) { *t = TLS{} }, "give --tlsverify --tlscacert FILE --tlscert FILE --tlskey FILE"},
		{"tcp://127.0.0.1:2376", func(t *TLS) { t.Verify = false }, "give --tlsverify"},
		{"tcp://127.0.0.1:2376", func(t *TLS) { t.CA = "" }, "give --tlscacert FILE"},
		{"tcp://127.0.0.1", func(*TLS) {}, "tcp://ADDRESS:PORT"},
		{"http://127.0.0.1:80", func(*TLS) {}, "only unix:// and tcp://"},
	} {
		c := Config{Root: dir, Run: "/u", Hosts: []string{tt.host}, TLS: whole}
		tt.change(&c.TLS)
		if _, err := c.complete(); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s %+v: %v", tt.host, c.TLS, err)
		}
	}
	// Files that are not what they are given for.
	for _, broken := range []TLS{
		{Verify: true, CA: filepath.Join(dir, "none.pem"), Cert: cert, Key: key}, {Verify: true, CA: key, Cert: cert, Key: key},
		{Verify: true, CA: whole.CA, Cert: cert, Key: cert}, {Verify: true, CA: whole.CA, Cert: whole.CA, Key: key},
	} {
		if _, err := broken.config(); err == nil {
			t.Errorf("%+v is taken", broken)
		}
	}
	if got := strings.Join(whole.args(), " "); got != "--tlsverify --tlscacert "+whole.CA+" --tlscert "+cert+" --tlskey "+key {
		t.Errorf("the next daemon gets %s", got)
	}
}
