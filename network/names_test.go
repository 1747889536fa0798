package network

import (
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"

	"pgregory.net/rapid"
)

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func sorted(list []netip.Addr) string {
	slices.SortFunc(list, netip.Addr.Compare)
	return fmt.Sprint(list)
}

func shopNames() *names {
	n := newNames()
	n.set("w1", []entry{
		{NetworkID: "f", Network: "front", Names: []string{"shop-web-1", "web"}, Addr: addr("10.0.0.2"), Standing: isReady},
		{NetworkID: "b", Network: "back", Names: []string{"shop-web-1", "web"}, Addr: addr("10.0.1.2"), Standing: isReady},
	})
	n.set("w2", []entry{
		{NetworkID: "f", Network: "front", Names: []string{"shop-web-2", "web"}, Addr: addr("10.0.0.3"), Standing: isRunning},
		{NetworkID: "f", Network: "front", Names: []string{"shop-web-2", "web"}, Addr: addr("fd00::3"), Standing: isRunning},
	})
	n.set("db", []entry{{NetworkID: "b", Network: "back", Names: []string{"shop_db_1", "DB"}, Addr: addr("10.0.1.9")}})
	return n
}

func TestNames(t *testing.T) {
	n := shopNames()
	for _, c := range []struct {
		name     string
		networks []string
		want     string
		known    bool
	}{
		{"web", []string{"f"}, "[10.0.0.2]", true},
		{"WEB.", []string{"f"}, "[10.0.0.2]", true},
		{"web", []string{"f", "b"}, "[10.0.0.2 10.0.1.2]", true},
		{"web", []string{"x"}, "[]", false},
		{"web", nil, "[]", false},
		{"shop-web-2", []string{"f"}, "[10.0.0.3 fd00::3]", true}, // runs, and nobody else is ready
		{"web.front", []string{"f"}, "[10.0.0.2]", true},
		{"web.back", []string{"f"}, "[]", false},
		{"shop_db_1", []string{"b"}, "[]", true}, // does not run
		{"db.Back", []string{"b"}, "[]", true},
		{"nobody", []string{"f", "b"}, "[]", false},
	} {
		addrs, known := n.Lookup(c.name, c.networks)
		if got := sorted(addrs); got != c.want || known != c.known {
			t.Errorf("%s on %v: %s %v, want %s %v", c.name, c.networks, got, known, c.want, c.known)
		}
	}
	n.state("w1", isRunning)
	if got, _ := n.Lookup("web", []string{"f"}); sorted(got) != "[10.0.0.2 10.0.0.3 fd00::3]" {
		t.Errorf("nobody ready: %v", got)
	}
	n.state("w2", isReady)
	if got, _ := n.Lookup("web", []string{"f"}); sorted(got) != "[10.0.0.3 fd00::3]" {
		t.Errorf("the second ready: %v", got)
	}
	for _, c := range []struct{ addr, network, want string }{
		{"10.0.0.2", "f", "shop-web-1.front"},
		{"10.0.0.2", "b", ""},
		{"fd00::3", "f", "shop-web-2.front"},
		{"10.9.9.9", "f", ""},
	} {
		if got := n.Reverse(addr(c.addr), []string{c.network}); got != c.want {
			t.Errorf("%s on %s: %q, want %q", c.addr, c.network, got, c.want)
		}
	}
	n.set("w2", nil)
	n.remove("w1")
	n.remove("db")
	if len(n.byName)+len(n.byAddr)+len(n.bySandbox) != 0 {
		t.Errorf("something is left: %v", n)
	}
}

func TestNamesAreShuffled(t *testing.T) {
	n := newNames()
	for i := range 3 {
		n.set(fmt.Sprint(i), []entry{{NetworkID: "n", Names: []string{"s"}, Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Standing: isReady}})
	}
	first := map[netip.Addr]int{}
	for range 3000 {
		a, _ := n.Lookup("s", []string{"n"})
		first[a[0]]++
	}
	for a, k := range first {
		if k < 800 || k > 1200 {
			t.Errorf("%v comes first %d times of 3000", a, k)
		}
	}
}

// The registry gives what a plain list of everything last said would give.
func TestNamesLaw(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newNames()
		model := map[string][]entry{}
		id := rapid.SampledFrom([]string{"a", "b", "c"})
		word := rapid.SampledFrom([]string{"x", "Y", "y", "x_1", ""})
		stand := rapid.SampledFrom([]standing{isAway, isLeaving, isRunning, isReady})
		for range rapid.IntRange(1, 25).Draw(t, "steps") {
			box := id.Draw(t, "sandbox")
			switch rapid.IntRange(0, 3).Draw(t, "step") {
			case 0:
				n.remove(box)
				delete(model, box)
			case 1:
				now := stand.Draw(t, "now")
				n.state(box, now)
				for i := range model[box] {
					model[box][i].Standing = now
				}
			default:
				var list []entry
				for range rapid.IntRange(0, 3).Draw(t, "entries") {
					list = append(list, entry{
						NetworkID: id.Draw(t, "network"), Network: "n",
						Names:    rapid.SliceOfN(word, 0, 3).Draw(t, "names"),
						Addr:     netip.AddrFrom4([4]byte{10, 0, 0, rapid.Byte().Draw(t, "addr") % 4}),
						Standing: stand.Draw(t, "standing"),
					})
				}
				n.set(box, list)
				model[box] = slices.Clone(list)
			}
			name := word.Draw(t, "lookup")
			networks := rapid.SliceOfN(id, 0, 2).Draw(t, "on")
			of, known := map[standing]map[netip.Addr]bool{}, false
			for _, list := range model {
				for _, e := range list {
					if name == "" || !slices.Contains(networks, e.NetworkID) || !slices.ContainsFunc(e.Names, func(s string) bool { return fold(s) == fold(name) }) {
						continue
					}
					known = true
					if of[e.Standing] == nil {
						of[e.Standing] = map[netip.Addr]bool{}
					}
					of[e.Standing][e.Addr] = true
				}
			}
			want := of[isReady]
			for _, next := range []standing{isRunning, isLeaving} {
				if len(want) == 0 {
					want = of[next]
				}
			}
			got, gotKnown := n.Lookup(name, networks)
			if len(got) != len(want) || gotKnown != known {
				t.Fatalf("%q on %v: %v %v, want %v %v", name, networks, got, gotKnown, want, known)
			}
			for _, a := range got {
				if !want[a] {
					t.Fatalf("%q on %v: %v, want %v", name, networks, got, want)
				}
			}
		}
	})
}

func TestNamesUnderRace(t *testing.T) {
	n := shopNames()
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			for k := range 500 {
				n.set(fmt.Sprint(i), []entry{{NetworkID: "f", Names: []string{"web"}, Addr: addr("10.0.0.7"), Standing: isReady}})
				n.state("w1", isRunning+standing(k%2))
				if a, _ := n.Lookup("web", []string{"f"}); len(a) == 0 {
					t.Error("web vanished")
				}
				n.remove(fmt.Sprint(i))
			}
		})
	}
	all.Wait()
}

func BenchmarkLookup(b *testing.B) {
	n := newNames()
	for i := range 50 {
		n.set(fmt.Sprint(i), []entry{{NetworkID: "n", Names: []string{fmt.Sprint("web-", i), "web"}, Addr: netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}), Standing: isReady}})
	}
	for b.Loop() {
		if a, _ := n.Lookup("web", []string{"n"}); len(a) != 50 {
			b.Fatal(a)
		}
	}
}
