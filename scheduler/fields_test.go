package scheduler

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"gantry/compose"
)

// What steers gantry is not told as a change of the container, whatever else
// has changed.
func TestSteeringFields(t *testing.T) {
	is := compose.Service{Name: "web"}
	for field, value := range map[string]string{"build": `{"context": "."}`, "pull_policy": `"always"`, "pull_refresh_after": `"1h"`, "scale": `2`,
		"depends_on": `{"db": {"condition": "service_started"}}`, "profiles": `["x"]`, "develop": `{"watch": [{"path": "a"}]}`, "attach": `true`,
		"extends": `{"service": "x"}`, "env_file": `[{"path": "x"}]`, "label_file": `["x"]`, "cpu_count": `1`, "cpu_percent": `1`, "isolation": `"x"`} {
		var s compose.Service
		for _, into := range []*compose.Service{&s, &is} {
			if err := json.Unmarshal([]byte(`{"`+field+`": `+value+`}`), into); err != nil {
				t.Fatal(err)
			}
		}
		if reflect.DeepEqual(s, compose.Service{}) {
			t.Fatalf("a service has no %s", field)
		}
		if all := serviceChanges(&compose.Service{}, &s); len(all) > 0 {
			t.Errorf("%s: %v", field, all)
		}
	}
	is.Privileged = true
	if text := some(serviceChanges(&compose.Service{Name: "web"}, &is)); text != "privileged unset → true" {
		t.Errorf("got %s", text)
	}
}

// Numbers of bytes are told as one would write them.
func TestSizes(t *testing.T) {
	for _, field := range []string{"mem_limit", "mem_reservation", "memswap_limit", "shm_size", "deploy.resources.limits.memory", "storage_opt.size"} {
		for was, want := range map[any]string{"67108864": "64m", "3221225472": "3g", "1024": "1k", "1025": "1025", "0": "0", "-1": "-1", "some": "some"} {
			if got := changed(field, was, nil).String(); got != field+` "`+want+`" → unset` {
				t.Errorf("%v: got %s", was, got)
			}
		}
	}
	if got := changed("hostname", "1024", nil).String(); got != `hostname "1024" → unset` {
		t.Errorf("got %s", got)
	}
}

// A value is on one line, whatever is in it.
func TestValuesAreOnOneLine(t *testing.T) {
	for value, want := range map[string]string{"": `""`, "a b~": `"a b~"`, "\n": `"\n"`, "\x7f\u2028": `"` + "\x7f" + `\u2028"`, `"`: `"\""`, `\`: `"\\"`, "é": `"é"`} {
		if got := compact(value); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	if got := compact([]any{"a", 1, nil, "<"}); got != `["a",1,null,"<"]` {
		t.Errorf("got %s", got)
	}
	long := strings.Repeat("x", mostShown)
	if got := show(long); got != `"`+long[:mostShown-2]+"…" {
		t.Errorf("got %s", got)
	}
}
