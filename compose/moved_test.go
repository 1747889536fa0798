package compose

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMovePorts(t *testing.T) {
	p := mustLoad(t, `
services:
  web: {image: a, ports: ["8080:80", "443:443", "443:443/udp", "80", "127.0.0.1:9000-9010:9000-9010"]}
  ftp: {image: a, ports: ["30000-30009:21"]}
  quic: {image: a, ports: ["127.0.0.1:8080:80/udp"]}
`)
	blocks := FixedPorts(p)
	if d := cmp.Diff([]PortBlock{
		{443, 1, []string{"/tcp", "/udp"}}, {8080, 1, []string{"/tcp", "127.0.0.1/udp"}},
		{9000, 11, []string{"127.0.0.1/tcp"}}, {30000, 10, []string{"/tcp"}},
	}, blocks); d != "" {
		t.Fatal(d)
	}
	to := map[int]int{443: 21443, 8080: 28080, 9000: 29000, 30000: 22000}
	moved := MovePorts(p, to)
	var got []string
	for _, name := range moved.ServiceNames() {
		for _, port := range moved.Services[name].Ports {
			got = append(got, name+" "+MovedPort(port)+">"+port.Published)
		}
	}
	for _, want := range []string{"web 8080>28080", "web 443>21443", "web >", "web 9000>29000", "web 9010>29010", "ftp 30000-30009>22000-22009", "quic 8080>28080"} {
		if !slices.Contains(got, want) {
			t.Errorf("no %q among %q", want, got)
		}
	}
	if FixedPorts(p)[0].First != 443 || MovedPort(p.Services["web"].Ports[0]) != "" {
		t.Error("the project itself was changed")
	}
	// It is known from the project alone, also from one that was stored.
	data, err := Encode(moved)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(to, MovedPorts(stored)); d != "" {
		t.Error(d)
	}
	if len(MovedPorts(p)) > 0 {
		t.Error("what was not moved counts as moved")
	}
	if a, b := Hash(stored.Services["web"]), Hash(moved.Services["web"]); a != b {
		t.Error("the hash is another after a round trip")
	}
}

// The places of a block are always the same, differ from try to try and from
// copy to copy, and lie where they should.
func TestCandidate(t *testing.T) {
	b := PortBlock{First: 8080, Count: 10}
	seen := map[int]bool{}
	for try := range 50 {
		c := b.Candidate("shop-two", try)
		if c != b.Candidate("shop-two", try) || c < movedLow || c+b.Count > movedHigh {
			t.Fatalf("try %d: %d", try, c)
		}
		seen[c] = true
	}
	if len(seen) < 45 {
		t.Errorf("50 tries have %d places", len(seen))
	}
	if b.Candidate("shop-two", 0) == b.Candidate("shop-three", 0) || b.Candidate("shop-two", 0) == (PortBlock{First: 8081, Count: 10}).Candidate("shop-two", 0) {
		t.Error("other copies and other ports have the same place")
	}
	if err := (PortBlock{First: 1, Count: 60000}).Placeable(); err == nil {
		t.Error("a block without room is accepted")
	}
}
