package compose

import (
	"slices"
	"testing"
	"time"
)

// A probe from outside is a health check like any other: a change of it is a
// change of the service.
func TestHealthCheckOf(t *testing.T) {
	service := func(says string) Service {
		t.Helper()
		p, err := load(t, "services:\n  web:\n    image: web\n"+says)
		if err != nil {
			t.Fatal(err)
		}
		return p.Services["web"]
	}
	tcp := service("    x-gantry: {healthcheck: {tcp: 5432, interval: 2s, retries: 4}}\n")
	h := HealthCheckOf(tcp)
	if !slices.Equal(h.Test, []string{"TCP", "5432"}) || time.Duration(*h.Interval) != 2*time.Second || *h.Retries != 4 || h.Timeout != nil {
		t.Errorf("%+v", h)
	}
	if h := HealthCheckOf(service("    x-gantry: {healthcheck: {http: 8080}}\n")); !slices.Equal(h.Test, []string{"HTTP", "8080"}) {
		t.Errorf("%+v", h)
	}
	if h := HealthCheckOf(service("    healthcheck: {test: [CMD, ok]}\n")); !slices.Equal(h.Test, []string{"CMD", "ok"}) {
		t.Errorf("%+v", h)
	}
	plain := service("")
	if HealthCheckOf(plain) != nil {
		t.Error("a health check from nowhere")
	}
	hashes := map[string]bool{}
	for _, s := range []Service{
		plain, tcp,
		service("    x-gantry: {healthcheck: {tcp: 5433, interval: 2s, retries: 4}}\n"),
		service("    x-gantry: {healthcheck: {tcp: 5432, interval: 3s, retries: 4}}\n"),
	} {
		hashes[Hash(s)] = true
	}
	if len(hashes) != 4 {
		t.Errorf("%d hashes of 4 services", len(hashes))
	}
	if Hash(service("    x-gantry: {sticky: source}\n")) != Hash(plain) {
		t.Error("what steers gantry alone needs a new container")
	}
}
