package recorded

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func scene(t *testing.T, answer string) *Scene {
	t.Helper()
	s, err := Parse("s", "> GET /x\n"+answer)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestCompare(t *testing.T) {
	for _, c := range []struct{ what, docker, gantry, want string }{
		{"the same", "< 200 application/json\n<< {\"a\":[1,null]}", "< 200 application/json\n<< {\"a\":[1,null]}", ""},
		{"a status, and nothing else", "< 404 a/b\n<< {\"message\":\"no\"}", "< 409 c/d\n<< {\"message\":\"yes\"}", `s: GET /x: status: 404 "no" => 409 "yes"`},
		{"a type", "< 200 a/b", "< 200 c/d", "s: GET /x: type: a/b => c/d"},
		{"a key less", "< 200\n<< {\"a\":1,\"b\":{\"c\":2}}", "< 200\n<< {\"a\":1,\"b\":{}}", "s: GET /x: body.b.c: missing: 2"},
		{"a key more", "< 200\n<< [{\"a\":1}]", "< 200\n<< [{\"a\":1,\"b\":2}]", "s: GET /x: body[0].b: extra: 2"},
		{"nothing for null", "< 200\n<< {\"a\":null}", "< 200\n<< {\"a\":[]}", "s: GET /x: body.a: null => []"},
		{"a list less", "< 200\n<< [1,2]", "< 200\n<< [1]", "s: GET /x: body: [1,2] => [1]"},
		{"a frame", "< 200\n<< stdout \"a\"", "< 200\n<< stderr \"a\"", "s: GET /x: body: missing: stdout \"a\"\ns: GET /x: body: extra: stderr \"a\""},
		{"a header less", "< 200\n< Upgrade: tcp", "< 200", "s: GET /x: header: missing: Upgrade: tcp"},
		{"a header that Docker lacks", "< 200\n< no Server", "< 200", ""},
		{"a message that goes on", "< 404\n<< {\"message\":\"No such x: {id}\"}", "< 404\n<< {\"message\":\"no such x: id; make one\"}", ""},
		{"a message that begins alike", "< 404\n<< {\"message\":\"No such x\"}", "< 404\n<< {\"message\":\"No such xy\"}", `s: GET /x: body.message: "No such x" => "No such xy"`},
		{"events", "< 200\n\n** a\n** b\n** c", "< 200\n\n** b\n** d\n** c", "s: events: missing: a\ns: events: extra: d"},
	} {
		if got := strings.Join(Compare(scene(t, c.docker), scene(t, c.gantry)), "\n"); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", c.what, got, c.want)
		}
	}
}

func TestAccepted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "list")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("# Why.\na: *: body.x: *\nb: body\n\n# Why else.\nc\n")
	a, err := ReadAccepted(path)
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]bool{"a: q: body.x: 1": true, "a: q: body.y: 1": false, "b: body": true, "b: body.x": false, "a: body.x: ": false} {
		if got := a.Explain(text); got != want {
			t.Errorf("%q is explained: %v", text, got)
		}
	}
	if got := a.Unused(); !slices.Equal(got, []string{"c"}) {
		t.Errorf("unused: %v", got)
	}
	for _, bad := range []string{"a: b\n", "# Why.\na\na\n", "# Why.\n\na\n"} {
		write(bad)
		if _, err := ReadAccepted(path); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}
