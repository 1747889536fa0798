package api

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// A list of two hundred containers is what dashboards ask for every second.
func BenchmarkContainerList(b *testing.B) {
	f := newFake()
	for len(f.containers) < 200 {
		f.containers = append(f.containers, web())
	}
	h := New(Options{Engine: f})
	b.ReportAllocs()
	for b.Loop() {
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v1.56/containers/json?all=1", nil))
		if w.Code != http.StatusOK {
			b.Fatal(w.Code)
		}
	}
}
