package compose

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sameProject holds the round trip: equal hashes, equal values, equal bytes.
func sameProject(t interface {
	Helper()
	Fatalf(string, ...any)
}, p *Project,
) {
	t.Helper()
	first, err := Encode(p)
	if err != nil {
		t.Fatalf("encode: %v", err)
	}
	q, err := Decode(first)
	if err != nil {
		t.Fatalf("decode: %v\n%s", err, first)
	}
	second, err := Encode(q)
	if err != nil {
		t.Fatalf("encode again: %v", err)
	}
	if !bytes.Equal(first, second) {
		t.Fatalf("encodings differ:\n%s", cmp.Diff(string(first), string(second)))
	}
	if diff := cmp.Diff(p.ServiceNames(), q.ServiceNames()); diff != "" {
		t.Fatalf("services: %s", diff)
	}
	for name, s := range p.Services {
		if HashIn(p, s) != HashIn(q, q.Services[name]) || Hash(s) != Hash(q.Services[name]) {
			t.Fatalf("the hash of %s changed: %s", name, cmp.Diff(s, q.Services[name]))
		}
	}
	for name, n := range p.Networks {
		if HashNetwork(n) != HashNetwork(q.Networks[name]) {
			t.Fatalf("the hash of network %s changed", name)
		}
	}
	for name, v := range p.Volumes {
		if HashVolume(v) != HashVolume(q.Volumes[name]) {
			t.Fatalf("the hash of volume %s changed", name)
		}
	}
	same := cmp.Options{
		cmpopts.EquateEmpty(),
		cmpopts.IgnoreFields(Project{}, "Environment", "DisabledServices"),
		cmpopts.IgnoreFields(Config{}, "Environment"),
		cmpopts.IgnoreUnexported(Secret{}, Config{}),
	}
	if diff := cmp.Diff(p, q, same); diff != "" {
		t.Fatalf("the project changed:\n%s", diff)
	}
}

// notRacing leaves a test out under the race detector: it reads hundreds of
// projects one after the other, most of the work of this package; TestCorpus
// reads some with it. See LIVES in the Makefile.
func notRacing(t *testing.T) {
	t.Helper()
	if racing {
		t.Skip("it is not run under the race detector; make test runs it without")
	}
}

func TestCorpusRoundTrip(t *testing.T) {
	notRacing(t)
	eachLoaded(t, func(t *testing.T, p *Project, _ Source) { sameProject(t, p) })
}

func TestDecodeRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"nothing":       "",
		"no header":     "services: {}\n",
		"newer version": `{"gantry":99,"name":"x"}` + "\n---\nservices: {}\n",
		"not YAML":      `{"gantry":1,"name":"x"}` + "\n---\n\t{",
		"a list":        `{"gantry":1,"name":"x"}` + "\n---\n- a\n",
		"wrong types":   `{"gantry":1,"name":"x"}` + "\n---\nservices: [1]\n",
	} {
		t.Run(name, func(t *testing.T) {
			if p, err := Decode([]byte(text)); err == nil {
				t.Fatalf("decoded to %+v", p)
			} else if strings.Contains(err.Error(), "\n") {
				t.Fatalf("more than one line: %v", err)
			}
		})
	}
}

// Every string of what YAML could take for its own survives, in every order:
// a block that begins with a space, a tab or a break is where encoders err.
func TestRoundTripBlanks(t *testing.T) {
	labels := Labels{}
	var add func(text string, more int)
	add = func(text string, more int) {
		labels[fmt.Sprintf("%q", text)] = text
		if more == 0 {
			return
		}
		for _, next := range []string{"\n", "\t", " ", "a", "#", "- ", "\r", "\u2028", "\u0085", `"`} {
			add(text+next, more-1)
		}
	}
	add("", 3)
	sameProject(t, &Project{Name: "x", Configs: Configs{"c": {Labels: labels}}})
}
