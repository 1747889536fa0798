package tests

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// registryProgram is Debian's registry, distribution 2.8.
const registryProgram = "/usr/bin/docker-registry"

// debianRegistry runs Debian's registry on a free port of the loopback, and
// gives its address. more goes into its configuration, below http and beside it.
func debianRegistry(t *testing.T, http, more string) string {
	t.Helper()
	needs(t, registryProgram)
	dir, addr := t.TempDir(), freeAddress(t)
	config := filepath.Join(dir, "config.yml")
	write(t, config, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: "+dir+"/data}, delete: {enabled: true}}\nhttp:\n  addr: "+addr+"\n"+http+more)
	runBeside(t, addr, registryProgram, "serve", config)
	return addr
}

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// runBeside runs a program until the test ends, and waits until it listens.
func runBeside(t testing.TB, addr, program string, args ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s:\n%s", program, out.String()[max(0, out.Len()-3000):])
		}
	})
	eventually(t, 10*time.Second, program+" listens", func() bool {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
}

// authority makes a certificate for the loopback, signed by itself, and writes
// it and its key into a directory.
func authority(t testing.TB, dir string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "gantry test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		DNSNames: []string{"localhost", "registry.test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})))
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

// registryMachine is a machine with its own logins and configuration of
// registries.
func registryMachine(t *testing.T) *machine {
	t.Helper()
	m := bareMachine(t)
	m.env = append(m.env, "DOCKER_CONFIG="+filepath.Join(m.dir, "docker"), "GANTRY_CERTS="+filepath.Join(m.dir, "registries"))
	return m
}

// hostsFile says how a registry is reached.
func (m *machine) hostsFile(host, text string) {
	m.t.Helper()
	if name, port, ok := strings.Cut(host, ":"); ok {
		host = name + "_" + port + "_"
	}
	write(m.t, filepath.Join(m.dir, "registries", host, "hosts.toml"), text)
}

// makeImage loads an image of busybox and a layer of its own that is mostly noise.
func (m *machine) makeImage(name string, size int) {
	m.t.Helper()
	base, err := os.ReadFile(archive(m.t, "busybox"))
	if err != nil {
		m.t.Fatal(err)
	}
	noise := make([]byte, size)
	_, _ = rand.Read(noise)
	path := filepath.Join(m.dir, "made.tar")
	write(m.t, path, string(dockerArchive(m.t, name, base, tarOf(m.t, file("etc/greeting", []byte("hello from the registry\n")), file("noise", noise)))))
	m.ok("image", "load", "-i", path)
}

// says runs an image's own command.
func (m *machine) imageSays(image string) string {
	m.t.Helper()
	dir := m.project("says", "services: {it: {image: '"+image+"'}}")
	defer m.okIn(dir, "down")
	return m.okIn(dir, "up", "--no-log-prefix")
}

func (m *machine) imageID(ref string) string {
	m.t.Helper()
	return strings.TrimSpace(m.ok("image", "inspect", ref, "--format", "{{.Id}}"))
}

// What one daemon pushes another pulls, and it is the same; and the name that
// has not moved costs next to nothing.
func TestRegistry(t *testing.T) {
	t.Parallel()
	addr := debianRegistry(t, "", "")
	m := registryMachine(t)
	ref := addr + "/team/web:1"
	m.makeImage(ref, 1<<20)
	out := m.ok("image", "push", ref)
	if !strings.Contains(out, "1: digest: sha256:") {
		t.Errorf("push says %q", out)
	}
	other := registryMachine(t)
	if out := other.ok("image", "pull", ref); !strings.Contains(out, "Downloaded newer image for "+ref) {
		t.Errorf("pull says %q", out)
	}
	if a, b := m.imageID(ref), other.imageID(ref); a != b {
		t.Errorf("pushed %s, pulled %s", a, b)
	}
	digests := func(m *machine) string { return m.ok("image", "inspect", ref, "--format", "{{.RepoDigests}}") }
	if a, b := digests(m), digests(other); a != b || !strings.Contains(a, addr+"/team/web@sha256:") {
		t.Errorf("digests: pushed %s, pulled %s", a, b)
	}
	if got := other.imageSays(ref); !strings.Contains(got, "hello from the registry") {
		t.Errorf("it says %q", got)
	}
	best := time.Hour
	for range 5 {
		r := other.gantry("image", "pull", ref)
		if r.code != 0 || !strings.Contains(r.out, "Image is up to date for "+ref) {
			t.Fatal(r)
		}
		best = min(best, r.took)
	}
	if best > 300*time.Millisecond {
		t.Errorf("to find that nothing has changed took %s", best)
	}
	// All tags, both ways.
	m.ok("image", "tag", ref, addr+"/team/web:2")
	m.ok("image", "push", "--all-tags", addr+"/team/web")
	other.ok("image", "pull", "--all-tags", addr+"/team/web")
	if other.imageID(addr+"/team/web:2") != m.imageID(ref) {
		t.Error("the second tag is another image")
	}
	m.fails(m.dir, []string{"image", "pull", addr + "/team/none"}, "manifest unknown")
	m.fails(m.dir, []string{"image", "push", addr + "/team/none"}, "does not exist locally")
	m.fails(m.dir, []string{"image", "search", addr + "/web"}, "cannot be searched")
	m.fails(m.dir, []string{"image", "pull", "127.0.0.1:1/x"}, "127.0.0.1:1", "refused")
}

// A registry whose authority the machine does not know is trusted by a
// hosts.toml, and by nothing else.
func TestRegistryTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	authority(t, dir)
	addr := debianRegistry(t, "  tls: {certificate: "+dir+"/cert.pem, key: "+dir+"/key.pem}\n", "")
	m := registryMachine(t)
	ref := "registry.test/web:1"
	m.makeImage(ref, 1000)
	m.hostsFile("registry.test", "server = \"https://"+addr+"\"\n")
	m.fails(m.dir, []string{"image", "push", ref}, "registry.test", "certificate", "registries/registry.test/hosts.toml")
	m.hostsFile("registry.test", "server = \"https://"+addr+"\"\nca = \""+dir+"/cert.pem\"\n")
	m.ok("image", "push", ref)
	m.ok("image", "rm", ref)
	m.ok("image", "pull", ref)
	if got := m.imageSays(ref); !strings.Contains(got, "hello") {
		t.Errorf("it says %q", got)
	}
	m.hostsFile("registry.test", "sever = 1\n")
	m.fails(m.dir, []string{"image", "pull", ref}, "hosts.toml", "sever")
	// SSL_CERT_FILE counts for everybody.
	other := registryMachine(t)
	other.env = append(other.env, "SSL_CERT_FILE="+dir+"/cert.pem")
	other.hostsFile("registry.test", "server = \"https://"+addr+"\"\n")
	other.ok("image", "pull", ref)
}

// login logs in with the password on standard input.
func (m *machine) login(server, user, password string) result {
	m.t.Helper()
	cmd := m.command(m.t.Context(), m.dir, "login", "-u", user, "--password-stdin", server)
	cmd.Stdin = strings.NewReader(password + "\n")
	return m.runCommand(cmd)
}

// A registry with users lets in who has logged in, until the logout.
func TestRegistryLogin(t *testing.T) {
	t.Parallel()
	hash, err := bcrypt.GenerateFromPassword([]byte("hunter2"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "users")
	write(t, users, "anna:"+string(hash)+"\n")
	tokens := tokenServer(t, "anna", "hunter2")
	for name, config := range map[string]string{
		"basic": "auth: {htpasswd: {realm: test, path: " + users + "}}\n",
		"token": fmt.Sprintf("auth: {token: {realm: %q, service: test, issuer: tests, rootcertbundle: %q}}\n", tokens.url, tokens.bundle),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			addr := debianRegistry(t, "", config)
			m := registryMachine(t)
			ref := addr + "/web:1"
			m.makeImage(ref, 1000)
			m.fails(m.dir, []string{"image", "push", ref}, "gantry login "+addr)
			if r := m.login(addr, "anna", "wrong"); r.code != 1 || !strings.Contains(r.err, "does not take") || strings.Contains(r.err, "wrong") {
				t.Errorf("a wrong password: %s", r)
			}
			if r := m.login(addr, "anna", "hunter2"); r.code != 0 || r.out != "Login Succeeded\n" {
				t.Fatal(r)
			}
			st, err := os.Stat(filepath.Join(m.dir, "docker", "config.json"))
			if err != nil || st.Mode().Perm() != 0o600 {
				t.Errorf("the logins: %v %v", st, err)
			}
			m.ok("image", "push", ref)
			m.ok("image", "rm", ref)
			m.ok("image", "pull", ref)
			m.ok("logout", addr)
			m.ok("image", "rm", ref)
			m.fails(m.dir, []string{"image", "pull", ref}, "gantry login "+addr)
			// Nothing of it is in a log.
			for _, name := range []string{"gantryd.log", "keeper.log"} {
				text, err := os.ReadFile(filepath.Join(m.root, name))
				if err == nil && (bytes.Contains(text, []byte("hunter2")) || bytes.Contains(text, []byte("YW5uYT"))) {
					t.Errorf("%s holds the password", name)
				}
			}
		})
	}
}

// tokens is a server of access tokens, as a registry asks for them
// (distribution, "Token Authentication").
type tokens struct{ url, bundle string }

func tokenServer(t testing.TB, user, password string) tokens {
	t.Helper()
	dir := t.TempDir()
	cert, key := authority(t, dir)
	part := func(v any) string {
		b, _ := json.Marshal(v)
		return base64.RawURLEncoding.EncodeToString(b)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name, secret, _ := r.BasicAuth()
		if r.Method == http.MethodPost {
			name, secret = r.FormValue("username"), r.FormValue("password")
		}
		if name != user || secret != password {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		access := []map[string]any{}
		for _, scope := range strings.Fields(r.FormValue("scope")) {
			if p := strings.Split(scope, ":"); len(p) == 3 {
				access = append(access, map[string]any{"type": p[0], "name": p[1], "actions": strings.Split(p[2], ",")})
			}
		}
		now := time.Now().Unix()
		text := part(map[string]any{"typ": "JWT", "alg": "ES256", "x5c": []string{base64.StdEncoding.EncodeToString(cert.Raw)}}) + "." +
			part(map[string]any{"iss": "tests", "sub": name, "aud": "test", "iat": now, "nbf": now - 60, "exp": now + 300, "jti": "1", "access": access})
		sum := sha256.Sum256([]byte(text))
		a, b, err := ecdsa.Sign(rand.Reader, key, sum[:])
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		sig := make([]byte, 64)
		a.FillBytes(sig[:32])
		b.FillBytes(sig[32:])
		token := text + "." + base64.RawURLEncoding.EncodeToString(sig)
		_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "access_token": token, "expires_in": 300})
	}))
	t.Cleanup(s.Close)
	return tokens{s.URL + "/token", filepath.Join(dir, "cert.pem")}
}

// breaking forwards connections and cuts each after a number of bytes from the
// other side, up to a number of times.
func breaking(t testing.TB, to string, after int64, times int) (addr string, cut *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cut = &atomic.Int64{}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	forward := func(in net.Conn) {
		defer in.Close()
		out, err := net.Dial("tcp", to)
		if err != nil {
			return
		}
		defer out.Close()
		defer context.AfterFunc(ctx, func() { in.Close(); out.Close() })()
		back := make(chan struct{})
		go func() {
			defer close(back)
			_, _ = io.Copy(out, in)
			_ = out.(*net.TCPConn).CloseWrite()
		}()
		n, _ := io.CopyN(in, out, after)
		if n == after {
			if cut.Add(1) <= int64(times) {
				_ = in.(*net.TCPConn).SetLinger(0)
			} else {
				_, _ = io.Copy(in, out)
			}
		}
		in.Close()
		<-back
	}
	go func() {
		defer close(done)
		var work []chan struct{}
		for {
			in, err := l.Accept()
			if err != nil {
				break
			}
			w := make(chan struct{})
			work = append(work, w)
			go func() { defer close(w); forward(in) }()
		}
		for _, w := range work {
			<-w
		}
	}()
	t.Cleanup(func() { l.Close(); stop(); <-done })
	return l.Addr().String(), cut
}

// Connections that break half-way are gone on with.
func TestRegistryBreaks(t *testing.T) {
	t.Parallel()
	addr := debianRegistry(t, "", "")
	m := registryMachine(t)
	proxy, cut := breaking(t, addr, 700_000, 6)
	m.makeImage(addr+"/web:1", 6<<20)
	m.ok("image", "push", addr+"/web:1")
	id := m.imageID(addr + "/web:1")
	m.ok("image", "rm", addr+"/web:1")
	m.ok("image", "pull", proxy+"/web:1")
	if got := m.imageID(proxy + "/web:1"); got != id {
		t.Errorf("pulled %s, pushed %s", got, id)
	}
	if cut.Load() < 4 {
		t.Errorf("only %d connections were cut", cut.Load())
	}
	if got := m.imageSays(proxy + "/web:1"); !strings.Contains(got, "hello") {
		t.Errorf("it says %q", got)
	}
}

// The compose file says when an image is pulled.
func TestPullPolicies(t *testing.T) {
	t.Parallel()
	addr := debianRegistry(t, "", "")
	source := registryMachine(t)
	ref := addr + "/app:latest"
	publish := func() string {
		source.makeImage(ref, 1000)
		source.ok("image", "push", ref)
		return source.imageID(ref)
	}
	first := publish()
	m := registryMachine(t)
	up := func(policy string, args ...string) string {
		t.Helper()
		dir := m.project("app", "services: {web: {image: '"+ref+"', command: sleep 1000, stop_signal: KILL, pull_policy: "+policy+"}}")
		m.okIn(dir, append([]string{"up", "-d"}, args...)...)
		return strings.TrimSpace(m.ok("container", "inspect", "app-web-1", "--format", "{{.Image}}"))
	}
	dir := m.project("app", "services: {web: {image: '"+ref+"', pull_policy: never}}")
	m.fails(dir, []string{"up", "-d"}, ref, "pull_policy is never")
	if got := up("missing"); got != first {
		t.Errorf("missing brought %s, want %s", got, first)
	}
	second := publish()
	for _, policy := range []string{"missing", "if_not_present", "never", "daily", "weekly", "every_12h"} {
		if got := up(policy); got != first {
			t.Errorf("%s: runs %s, want %s still", policy, got, first)
		}
	}
	if got := up("always"); got != second {
		t.Errorf("always: runs %s, want %s", got, second)
	}
	third := publish()
	time.Sleep(1100 * time.Millisecond)
	if got := up("every_1s"); got != third {
		t.Errorf("every_1s: runs %s, want %s", got, third)
	}
	fourth := publish()
	if got := up("missing", "--pull", "always"); got != fourth {
		t.Errorf("--pull always: runs %s, want %s", got, fourth)
	}
	fifth := publish()
	m.okIn(filepath.Join(m.dir, "app"), "pull") // missing, says the file
	if got := m.imageID(ref); got != fourth {
		t.Errorf("pull brought %s, though nothing was missing", got)
	}
	m.okIn(filepath.Join(m.dir, "app"), "pull", "--policy", "always")
	if got := up("missing"); got != fifth {
		t.Errorf("after pull: runs %s, want %s", got, fifth)
	}
	// What was removed behind its back the daemon brings again by itself: the
	// very image, though the name means another one by now.
	publish()
	m.ok("container", "rm", "-f", "app-web-1")
	m.ok("image", "rm", ref)
	dir = filepath.Join(m.dir, "app")
	m.okIn(dir, "scale", "web=0")
	m.okIn(dir, "scale", "web=1")
	if got := strings.TrimSpace(m.ok("container", "inspect", "app-web-1", "--format", "{{.Image}}")); got != fifth {
		t.Errorf("brought again: %s, want %s", got, fifth)
	}
	m.okIn(dir, "down")
}

// docker pulls, pushes and logs in through the daemon.
func TestDockerRegistry(t *testing.T) {
	t.Parallel()
	needs(t, dockerProgram)
	hash, err := bcrypt.GenerateFromPassword([]byte("hunter2"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := filepath.Join(t.TempDir(), "users")
	write(t, users, "anna:"+string(hash)+"\n")
	addr := debianRegistry(t, "", "auth: {htpasswd: {realm: test, path: "+users+"}}\n")
	m := registryMachine(t)
	ref := addr + "/web:1"
	m.makeImage(ref, 1000)
	docker := func(in string, args ...string) result {
		cmd := exec.CommandContext(t.Context(), dockerProgram, args...)
		cmd.Env = append(append(os.Environ(), m.dockerEnv()...), "DOCKER_CONFIG="+filepath.Join(m.dir, "docker"))
		cmd.Stdin = strings.NewReader(in)
		return m.runCommand(cmd)
	}
	if r := docker("", "push", ref); r.code == 0 || !strings.Contains(r.err, "denied") {
		t.Errorf("without a login: %s", r)
	}
	if r := docker("hunter2", "login", "-u", "anna", "--password-stdin", addr); r.code != 0 {
		t.Fatal(r)
	}
	if r := docker("", "push", ref); r.code != 0 || !strings.Contains(r.out, "1: digest: sha256:") {
		t.Fatal(r)
	}
	m.ok("image", "rm", ref)
	r := docker("", "pull", ref)
	for _, want := range []string{"1: Pulling from web", "Pull complete", "Digest: sha256:", "Status: Downloaded newer image for " + ref, "\n" + ref + "\n"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no %q in %s", want, r)
		}
	}
	if r := docker("", "pull", ref); r.code != 0 || !strings.Contains(r.out, "Status: Image is up to date for "+ref) {
		t.Error(r)
	}
	r = docker("", "events", "--since", "1h", "--until", fmt.Sprint(time.Now().Unix()+1), "--filter", "type=image", "--format", "{{.Action}} {{.Actor.ID}} {{.Actor.Attributes.name}}")
	for _, want := range []string{"push " + ref + " " + addr + "/web\n", "pull " + ref + " " + addr + "/web\n"} {
		if !strings.Contains(r.out, want) {
			t.Errorf("no event %q: %s", want, r)
		}
	}
	// docker run pulls what is missing.
	m.ok("image", "rm", ref)
	if r := docker("", "run", "--rm", ref, "cat", "/etc/greeting"); r.code != 0 || !strings.Contains(r.out, "hello") {
		t.Error(r)
	}
	if r := docker("", "search", addr+"/web"); r.code == 0 || !strings.Contains(r.err, "cannot be searched") {
		t.Error(r)
	}
}

// A registry of one's own: for this machine without more ado, for others with
// TLS, and for users only where there is a list of them.
func TestServeRegistry(t *testing.T) {
	t.Parallel()
	m := registryMachine(t)
	dir := t.TempDir()
	authority(t, dir)
	hash, err := bcrypt.GenerateFromPassword([]byte("hunter2"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "users"), "anna:"+string(hash)+"\n")
	write(t, filepath.Join(dir, "bad"), "anna:$2y$05$abc\nbob:{SHA}x\n")
	write(t, filepath.Join(dir, "empty"), "# nobody\n\n")
	gantry := filepath.Join(programs, "gantry")
	addr, secure := freeAddress(t), freeAddress(t)
	runBeside(t, addr, gantry, "registry", "serve", "--addr", addr, "--root", filepath.Join(dir, "data"))
	runBeside(t, secure, gantry, "registry", "serve", "--addr", secure, "--root", filepath.Join(dir, "more"),
		"--tlscert", dir+"/cert.pem", "--tlskey", dir+"/key.pem", "--htpasswd", dir+"/users")
	ref := addr + "/web:1"
	m.makeImage(ref, 100_000)
	m.ok("image", "push", ref)
	id := m.imageID(ref)
	m.ok("image", "rm", ref)
	m.ok("image", "pull", ref)
	if m.imageID(ref) != id {
		t.Error("it is another image")
	}
	m.hostsFile("registry.test", "server = \"https://"+secure+"\"\nca = \""+dir+"/cert.pem\"\n")
	m.ok("image", "tag", ref, "registry.test/web:1")
	m.fails(m.dir, []string{"image", "push", "registry.test/web:1"}, "gantry login registry.test")
	if r := m.login("registry.test", "anna", "hunter2"); r.code != 0 {
		t.Fatal(r)
	}
	m.ok("image", "push", "registry.test/web:1")
	for path, want := range map[string]int{"/v2/": 200, "/v2/x/manifests/1": 404, "/v2/_catalog": 200} {
		resp, err := http.Get("http://" + addr + path) //nolint:noctx // a test's
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	for words, args := range map[string][]string{
		"without TLS": {"--addr", "0.0.0.0:5000"}, "serves other machines": {"--addr", ":0"}, "HOST:PORT": {"--addr", "5000"},
		"names nobody": {"--htpasswd", dir + "/empty"}, "bad:2: not NAME:HASH with a bcrypt hash": {"--htpasswd", dir + "/bad"},
		"no such file": {"--htpasswd", dir + "/nobody"},
		"its key":      {"--tlscert", dir + "/cert.pem"}, "certificate": {"--tlscert", dir + "/x", "--tlskey", dir + "/y"},
	} {
		r := m.gantry(append([]string{"registry", "serve", "--root", dir + "/none"}, args...)...)
		if r.code != 1 || !strings.Contains(r.err, words) {
			t.Errorf("%v: %s", args, r)
		}
	}
	if _, err := os.Stat(dir + "/none"); err == nil {
		t.Error("one that was refused has made its directory")
	}
}
