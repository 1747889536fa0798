package image

import (
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// What is logged of a pull shows neither credentials nor the signature in an
// address that a registry sends on to, however much is logged.
func TestPullLogsNoSecrets(t *testing.T) {
	var text locked
	s, err := Open(t.Context(), Options{Root: t.TempDir(), Log: slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.pause = time.Millisecond
	h := newHub(t)
	h.image(t, "x:1", makeTar(t, entry{name: "f"}))
	h.bend = func(w http.ResponseWriter, r *http.Request) bool {
		if _, password, _ := r.BasicAuth(); password != "hunter2" {
			w.Header().Set("WWW-Authenticate", `Basic realm="hub"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if strings.Contains(r.URL.Path, "/blobs/") && r.URL.RawQuery == "" {
			http.Redirect(w, r, r.URL.Path+"?signature=hush", http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	if _, err := s.Pull(t.Context(), PullOptions{Ref: h.name("x:1"), Credentials: Credentials{Username: "anna", Password: "hunter2"}}); err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"hunter2", "YW5uYTpodW50ZXIy", "hush"} {
		if strings.Contains(text.String(), secret) {
			t.Errorf("%q is in the log:\n%s", secret, text.String())
		}
	}
	if text.String() == "" {
		t.Error("nothing was logged: the test cannot fail")
	}
}

// locked is a text that several write.
type locked struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
