package cli

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gantry/client"
)

func TestPrune(t *testing.T) {
	d := newDaemon(t)
	var filters []string
	for _, noun := range []string{"containers", "images", "networks", "volumes", "build"} {
		answer := map[string]string{
			"containers": `{"ContainersDeleted":["c1"],"SpaceReclaimed":1000}`, "images": `{"ImagesDeleted":[{"Untagged":"web:1"},{"Deleted":"sha256:1"}],"SpaceReclaimed":2000}`,
			"networks": `{"NetworksDeleted":["front"]}`, "volumes": `{"VolumesDeleted":null,"SpaceReclaimed":0}`,
			"build": `{"CachesDeleted":["b1"],"SpaceReclaimed":4000}`,
		}[noun]
		d.answers["POST /"+noun+"/prune"] = func(w http.ResponseWriter, r *http.Request) {
			q := r.URL.Query()
			if noun == "build" {
				filters = append(filters, "build "+q.Encode())
			}
			filters = append(filters, noun+" "+q.Get("filters"))
			_, _ = w.Write([]byte(answer))
		}
	}
	ask := func(args ...string) result { return run(t, nil, append([]string{"--host", d.host}, args...)...) }
	for args, want := range map[string]string{
		"container prune -f":                          "c1\nTotal reclaimed space: 1kB\n",
		"image prune --force --all":                   "untagged: web:1\ndeleted: sha256:1\nTotal reclaimed space: 2kB\n",
		"network prune -f --filter label=a":           "front\nTotal reclaimed space: 0B\n",
		"volume prune -f -a":                          "Total reclaimed space: 0B\n",
		"system prune -f --volumes --filter label!=k": "Deleted Containers:\nc1\n\nDeleted Networks:\nfront\n\nDeleted Images:\nuntagged: web:1\ndeleted: sha256:1\n\nTotal reclaimed space: 3kB\n",
		"system prune -f -a --filter until=1h":        "Deleted Containers:\nc1\n\nDeleted Networks:\nfront\n\nDeleted Images:\nuntagged: web:1\ndeleted: sha256:1\n\nDeleted Build Cache:\nb1\n\nTotal reclaimed space: 7kB\n",
		"builder prune -f --filter inuse --filter type=regular --max-used-space 1kb --reserved-space 2kb --min-free-space 3kb": "b1\nTotal reclaimed space: 4kB\n",
	} {
		if r := ask(strings.Fields(args)...); r.code != 0 || r.out != want {
			t.Errorf("%s: got %+v", args, r)
		}
	}
	for _, want := range []string{
		"containers ", `images {"dangling":{"false":true}}`, `networks {"label":{"a":true}}`, `volumes {"all":{"true":true}}`, `containers {"label!":{"k":true}}`, `volumes {"label!":{"k":true}}`,
		`build {"until":{"1h":true}}`, "build " + url.Values{"filters": {`{"inuse":{"true":true},"type":{"regular":true}}`}, "max-used-space": {"1024"}, "reserved-space": {"2048"}, "min-free-space": {"3072"}}.Encode(),
	} {
		if !slices.Contains(filters, want) {
			t.Errorf("nobody asked for %q, but for %q", want, filters)
		}
	}
	// Where nobody can answer nothing is lost.
	before := len(d.changed())
	for _, args := range []string{"container prune", "image prune -a", "network prune", "volume prune", "system prune", "builder prune"} {
		if r := ask(strings.Fields(args)...); r.code != 1 || !strings.Contains(r.err, "say --force") {
			t.Errorf("%s: got %+v", args, r)
		}
	}
	if r := ask("system", "prune", "-f", "--volumes", "--filter", "until=1h"); r.code != 1 {
		t.Errorf("got %+v", r)
	}
	for args, want := range map[string]string{
		"builder prune -f --keep-storage 1 --reserved-space 1": "old name", "builder prune -f --max-used-space much": "must be a size", "builder prune -f --filter x": "key=value",
	} {
		if r := ask(strings.Fields(args)...); r.code != 1 || !strings.Contains(r.err, want) {
			t.Errorf("%s: got %+v", args, r)
		}
	}
	if got := d.changed()[before:]; len(got) > 0 {
		t.Errorf("it did %v", got)
	}
}

func TestSystem(t *testing.T) {
	d := newDaemon(t)
	ask := func(args ...string) result { return run(t, nil, append([]string{"--host", d.host}, args...)...) }
	d.answers["GET /system/df"] = func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"ImageUsage":{"TotalCount":3,"ActiveCount":1,"TotalSize":4000000,"Reclaimable":1000000,"Items":[{"Id":"sha256:0123456789abcdef","RepoTags":["web:1"],"Size":4000000,"SharedSize":0,"Containers":1}]},
			"ContainerUsage":{},"VolumeUsage":{"Items":[{"Name":"data","UsageData":{"RefCount":2,"Size":-1}}]},"BuildCacheUsage":{}}`))
	}
	r := ask("system", "df")
	for _, part := range []string{"TYPE", "Images", "4MB", "1MB (25%)", "Build Cache"} {
		if r.code != 0 || !strings.Contains(r.out, part) {
			t.Errorf("%q is missing: %+v", part, r)
		}
	}
	if r := ask("system", "df", "-v"); r.code != 0 || !strings.Contains(r.out, "0123456789ab") || !strings.Contains(r.out, "elsewhere") {
		t.Errorf("got %+v", r)
	}
	if r := ask("system", "df", "--format", "{{.Type}} {{.Size}}"); r.code != 0 || !strings.HasPrefix(r.out, "Images 4MB\n") {
		t.Errorf("got %+v", r)
	}
	d.say("GET /info", client.Info{Name: "here", Containers: 5, ContainersRunning: 2, Warnings: []string{"mind the gap"}})
	if r := ask("system", "info"); r.code != 0 || !strings.Contains(r.out, "5 (2 running, 0 paused, 0 stopped)") || !strings.Contains(r.err, "mind the gap") {
		t.Errorf("got %+v", r)
	}
	if r := ask("system", "info", "-f", "{{.Name}}"); r.out != "here\n" {
		t.Errorf("got %+v", r)
	}
	var asked url.Values
	d.answers["GET /events"] = func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Query()
		_, _ = w.Write([]byte(`{"Type":"volume","Action":"create","Actor":{"ID":"data","Attributes":{"driver":"local"}},"time":1136214245,"timeNano":1136214245000000000}` + "\n"))
	}
	if r := ask("system", "events", "-f", "type=volume", "--since", "1136214000", "--until", "1136214300"); r.code != 0 || !strings.Contains(r.out, "volume create data (driver=local)") {
		t.Errorf("got %+v", r)
	}
	if asked.Get("since") != "1136214000.000000000" || asked.Get("filters") != `{"type":{"volume":true}}` {
		t.Errorf("it asked %v", asked)
	}
	if r := ask("system", "events", "--format", "{{.Action}}"); r.out != "create\n" {
		t.Errorf("got %+v", r)
	}
}

func TestUpdateCommitHistorySave(t *testing.T) {
	d := newDaemon(t)
	ask := func(args ...string) result { return run(t, nil, append([]string{"--host", d.host}, args...)...) }
	var body, query string
	note := func(answer string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			var b strings.Builder
			buf := make([]byte, 4096)
			for {
				n, err := r.Body.Read(buf)
				b.Write(buf[:n])
				if err != nil {
					break
				}
			}
			body, query = b.String(), r.URL.RawQuery
			_, _ = w.Write([]byte(answer))
		}
	}
	d.answers["POST /containers/web/update"] = note(`{"Warnings":["slow"]}`)
	r := ask("container", "update", "-m", "64m", "--memory-swap", "-1", "--cpus", "1.5", "--pids-limit", "0", "--restart", "on-failure:3", "web")
	if r.code != 0 || r.out != "web\n" || !strings.Contains(r.err, "slow") {
		t.Errorf("got %+v", r)
	}
	for _, part := range []string{`"Memory":67108864`, `"MemorySwap":-1`, `"NanoCpus":1500000000`, `"PidsLimit":0`, `"Name":"on-failure","MaximumRetryCount":3`} {
		if !strings.Contains(body, part) {
			t.Errorf("%s is missing in %s", part, body)
		}
	}
	for _, args := range []string{"container update web", "container update --cpus x web", "container update -m many web", "container update --restart on-failure:x web", "container update --cpus 0 web"} {
		if r := ask(strings.Fields(args)...); r.code != 1 {
			t.Errorf("%s: got %+v", args, r)
		}
	}
	d.answers["POST /commit"] = note(`{"Id":"sha256:new"}`)
	if r := ask("container", "commit", "-a", "me", "-m", "why", "-c", "CMD x", "--no-pause", "web", "mine:1"); r.code != 0 || r.out != "sha256:new\n" {
		t.Errorf("got %+v", r)
	}
	if q, err := url.ParseQuery(query); err != nil || q.Get("container") != "web" || q.Get("repo") != "mine:1" || q.Get("author") != "me" || q.Get("comment") != "why" || q.Get("changes") != "CMD x" || q.Get("pause") != "0" {
		t.Errorf("it asked %s", query)
	}
	d.answers["GET /images/web/history"] = note(`[{"Id":"sha256:0123456789abcdef","Created":1136214245,"CreatedBy":"COPY a   very very very very very very very very long line","Size":1500},{"Id":"<missing>","Size":0}]`)
	if r := ask("image", "history", "web"); r.code != 0 || !strings.Contains(r.out, "0123456789ab ") || !strings.Contains(r.out, "…") || !strings.Contains(r.out, "1.5kB") {
		t.Errorf("got %+v", r)
	}
	if r := ask("image", "history", "--no-trunc", "--human=false", "--format", "{{.ID}} {{.Size}}", "web"); r.out != "sha256:0123456789abcdef 1500\n<missing> 0\n" {
		t.Errorf("got %+v", r)
	}
	d.answers["GET /images/get"] = note("tar")
	file := filepath.Join(t.TempDir(), "out.tar")
	if r := ask("image", "save", "-o", file, "web", "a/b"); r.code != 0 {
		t.Errorf("got %+v", r)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "tar" || query != "names=web&names=a%2Fb" {
		t.Errorf("got %q, %v, asked %s", b, err, query)
	}
	if r := ask("image", "save", "web"); r.out != "tar" {
		t.Errorf("got %+v", r)
	}
}
