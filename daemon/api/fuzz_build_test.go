package api

import (
	"net/http"
	"net/url"
	"testing"
)

// FuzzBuild feeds the parameters of a build and of what prunes its cache. They
// are understood or refused; a builder that is asked was asked something whole.
func FuzzBuild(f *testing.F) {
	for _, s := range [][4]string{
		{`{"A":"b","C":null}`, `[{"Name":"nofile","Soft":1,"Hard":2}]`, "name=1", "1000"},
		{`[]`, `["a:1.2.3.4"]`, "x:host-gateway", "-1"},
		{`{"until":["24h"],"id":["^a"]}`, `{"inuse":{"true":true}}`, "linux/amd64", "9223372036854775808"},
		{`[{"Type":"local","Attrs":{"dest":"/"}}]`, `{"https://index.docker.io/v1/":{"username":"u"}}`, "host", "1e9"},
		{`{"shared":["1"],"private":["0"]}`, `null`, "https://example.org/x.git#main:dir", ""},
	} {
		f.Add(s[0], s[1], s[2], s[3])
	}
	b := &fakeBuilder{}
	h := New(Options{Engine: newFake(), Builder: b})
	f.Fuzz(func(t *testing.T, one, two, word, number string) {
		q := url.Values{}
		for _, name := range []string{"buildargs", "labels", "cachefrom", "outputs", "ulimits", "extrahosts"} {
			for _, text := range []string{one, two} {
				ask(t, h, "POST", "/build?"+url.Values{name: {text}}.Encode(), "", nil)
			}
		}
		for _, name := range []string{"t", "dockerfile", "target", "platform", "networkmode", "cgroupparent", "remote", "session", "version", "buildid", "extrahosts", "isolation", "squash"} {
			q.Set(name, word)
		}
		ask(t, h, "POST", "/build?"+q.Encode(), one, nil)
		for _, name := range []string{"shmsize", "memory", "cpushares", "cpusetcpus"} {
			q = url.Values{name: {number}}
			ask(t, h, "POST", "/build?"+q.Encode(), "", nil)
			if b.asked.ShmSize < 0 {
				t.Fatalf("%s=%s: %+v", name, number, b.asked)
			}
		}
		ask(t, h, "POST", "/build", "", http.Header{"X-Registry-Config": {one}})
		for _, name := range []string{"keep-storage", "reserved-space", "max-used-space", "min-free-space"} {
			ask(t, h, "POST", "/build/prune?"+url.Values{name: {number}, "filters": {one}, "all": {word}}.Encode(), "", nil)
			if p := b.pruned; p.Reserved < 0 || p.Max < 0 || p.MinFree < 0 || p.Filter.Unused < 0 {
				t.Fatalf("%s=%s: %+v", name, number, p)
			}
		}
		ask(t, h, "GET", "/system/df?"+url.Values{"type": {"build-cache"}, "filters": {two}}.Encode(), "", nil)
	})
}
