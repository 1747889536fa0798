package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Whatever is taken away is there again within a second, and the sandboxes go
// on under their addresses.
func TestLossesAreMended(t *testing.T) {
	w := newWorld(t)
	front := w.network("front")
	back := w.network("back", Spec{Internal: true, EnableIPv6: true})
	var at []Attached
	for _, id := range []string{"a", "b"} {
		s := asked(id, "front", "back")
		s.Group = "web"
		a, err := w.Attach(t.Context(), s)
		w.must(err)
		w.echo(a.Path, id, 80)
		at = append(at, a)
	}
	w.publish("web", Port{HostPort: 8080, Port: 80})
	hostEnd := func(id string) string { // of its first link
		var name string
		links, err := hostLinks(w.tag)
		w.must(err)
		w.mu.Lock()
		defer w.mu.Unlock()
		if l := links[w.sandboxes[id].ends[0].peer]; l != nil {
			name = l.Name
		}
		return name
	}
	inB := "nsenter --net=" + at[1].Path + " "
	whole := func() error {
		for _, t := range []*table{w.table, w.table6} {
			if err := t.verify(); err != nil {
				return err
			}
		}
		for _, name := range []string{"ip_forward", "conf/" + front.Bridge + "/forwarding", "conf/" + front.Bridge + "/route_localnet"} {
			if b, err := os.ReadFile("/proc/sys/net/ipv4/" + name); err != nil || string(b) != "1\n" {
				return fmt.Errorf("%s is %q: %v", name, b, err)
			}
		}
		if !strings.Contains(w.nft("list", "ruleset"), guardName) {
			return errors.New("the machine forwards without a guard")
		}
		for _, path := range []string{at[0].Path, ""} {
			if _, err := askFor(200*time.Millisecond, path, "tcp4", addrOf(at[1]).String()+":80"); err != nil {
				return err
			}
		}
		if _, err := askFor(200*time.Millisecond, w.outside, "tcp4", "198.51.100.1:8080"); err != nil {
			return err
		}
		if _, err := askFor(200*time.Millisecond, "", "tcp4", "127.0.0.1:8080"); err != nil {
			return err
		}
		// To the outside, under the host's address.
		_, err := askFor(200*time.Millisecond, at[1].Path, "tcp4", "198.51.100.2:7")
		return err
	}
	w.echo(w.outside, "outside", 7)
	w.must(whole())
	for name, script := range map[string]string{
		"a bridge":             "ip link del " + front.Bridge,
		"both bridges":         "ip link del " + front.Bridge + "; ip link del " + back.Bridge,
		"a bridge is down":     "ip link set " + front.Bridge + " down",
		"a bridge's address":   "ip addr flush dev " + front.Bridge,
		"the route":            "ip route flush dev " + front.Bridge,
		"a link":               "ip link del " + hostEnd("b"),
		"the ruleset":          "nft flush ruleset",
		"the table":            "nft delete table ip " + w.table.name,
		"the rules":            "nft flush table ip " + w.table.name,
		"a chain's rules":      "nft flush chain ip " + w.table.name + " publish",
		"elements":             "nft flush map ip " + w.table.name + " slots",
		"a rule of a stranger": "nft insert rule ip " + w.table.name + " forward drop",
		"forwarding":           "sysctl -qw net.ipv4.ip_forward=0",
		"forwarding of one":    "sysctl -qw net.ipv4.conf." + front.Bridge + ".forwarding=0",
		"route_localnet":       "sysctl -qw net.ipv4.conf." + front.Bridge + ".route_localnet=0",
		"everything":           "nft flush ruleset; ip link del " + front.Bridge + "; ip link del " + back.Bridge,
	} {
		t.Run(name, func(t *testing.T) {
			if err := sh(script); err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			within(t, time.Second, "all to be as before", func() bool { return whole() == nil })
			t.Logf("after %v", time.Since(begin).Round(time.Millisecond))
		})
	}
	// By its other end, with names that change each time.
	for name, script := range map[string]string{
		"a link, from inside": inB + "ip link del eth0",
		"a link is down":      "ip link set %s down",
		"a link's bridge":     "ip link set %s nomaster",
		"a link, once more":   "ip link del %s",
	} {
		t.Run(name, func(t *testing.T) {
			if err := sh(strings.ReplaceAll(script, "%s", hostEnd("b"))); err != nil {
				t.Fatal(err)
			}
			within(t, time.Second, "all to be as before", func() bool { return whole() == nil })
		})
	}
	for i, id := range []string{"a", "b"} {
		now, err := w.Attach(t.Context(), func() Sandbox { s := asked(id, "front", "back"); s.Group = "web"; return s }())
		w.must(err)
		if !slices.Equal(now.Endpoints, at[i].Endpoints) {
			t.Errorf("%s is at %v, was at %v", id, now.Endpoints, at[i].Endpoints)
		}
	}
	w.echoOn("tcp6", at[1].Path, "b", 81)
	w.reach(at[0].Path, "tcp6", "["+six(at[1])+"]:81", "b "+six(at[0]))
}

// six is a sandbox's address of IPv6.
func six(a Attached) string {
	i := slices.IndexFunc(a.Endpoints, func(e Joined) bool { return e.IPv6.IsValid() })
	return a.Endpoints[i].IPv6.Addr().String()
}

// What the fabric does itself raises no suspicion, so it does not look at
// everything all the time.
func TestOwnDoingsAreNoLosses(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	w.join("first", "front")
	w.publish("first", Port{HostPort: 8080, Port: 80})
	time.Sleep(100 * time.Millisecond)
	before := w.watch.raised.Load()
	for range 3 {
		w.join("second", "front")
		_, err := w.Attach(t.Context(), vip("third", "front"))
		w.must(err)
		w.must(w.Detach(t.Context(), "third"))
		w.must(w.SetState("second", true, false))
		w.must(w.SetState("second", true, true))
		w.publish("second", Port{HostPort: 8081, Port: 80})
		w.must(w.Unpublish(t.Context(), "second"))
		w.must(w.Detach(t.Context(), "second"))
		w.network("other")
		w.must(w.RemoveNetwork(t.Context(), "other"))
	}
	time.Sleep(200 * time.Millisecond)
	if n := w.watch.raised.Load() - before; n > 0 {
		t.Errorf("suspicion was raised %d times", n)
	}
}

// The guard is put back although the machine forwards, since it forwards
// because of us; the next daemon knows that too.
func TestGuardIsRemembered(t *testing.T) {
	w := newWorld(t)
	w.network("front")
	s := asked("a", "front")
	_, err := w.Attach(t.Context(), s)
	w.must(err)
	w.crash()
	w.must(sh("nft flush ruleset"))
	w.open(s)
	if !strings.Contains(w.nft("list", "ruleset"), guardName) {
		t.Error("the machine forwards without a guard")
	}
	if _, err := os.Stat(filepath.Join(w.opts.Run, "guarded")); err != nil {
		t.Error(err)
	}
}
