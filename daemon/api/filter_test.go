package api

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"gantry/runtime"
)

// Every list knows Docker's filters and refuses all others by name.
func TestFiltersOfEveryList(t *testing.T) {
	f := newFake()
	close(f.events)
	host := serve(t, Options{Engine: f})
	for path, known := range map[string]string{
		"/containers/json":  "ancestor before since exited expose health id is-task isolation label label! name network publish status volume",
		"/images/json":      "before dangling label label! reference since until",
		"/networks":         "dangling driver id label label! name scope type",
		"/volumes":          "dangling driver label label! name",
		"/events":           "config container daemon event image label network node plugin scope secret service type volume",
		"/containers/prune": "label label! until",
		"/images/prune":     "dangling label label! until",
		"/networks/prune":   "label label! until",
		"/volumes/prune":    "all label label!",
	} {
		good := map[string]string{
			"before": "busybox", "since": "busybox", "exited": "3", "expose": "80", "publish": "80/tcp", "health": "healthy", "is-task": "false", "status": "running",
			"dangling": "true", "type": "custom", "until": "24h", "all": "1",
		}
		if path == "/containers/json" {
			good["before"], good["since"] = "web", "job"
		}
		if path == "/events" {
			good["type"] = "container"
		}
		method := "GET"
		if strings.HasSuffix(path, "/prune") {
			method = "POST"
		}
		ask := func(key, value string) (int, string) {
			resp, text := send(t, host, method, path+"?filters="+url.QueryEscape(fmt.Sprintf(`{%q:[%q]}`, key, value)), "")
			return resp.StatusCode, text
		}
		for key := range strings.FieldsSeq(known) {
			value := good[key]
			if value == "" {
				value = "x"
			}
			if status, text := ask(key, value); status != 200 {
				t.Errorf("%s: %s=%s: %d %s", path, key, value, status, text)
			}
		}
		for _, key := range []string{"colour", "", "Label", "labels"} {
			if status, text := ask(key, "x"); status != 400 || !strings.Contains(text, "invalid filter '"+key+"'") {
				t.Errorf("%s: filter %q: %d %s", path, key, status, text)
			}
		}
	}
}

func TestEventsOfAnImage(t *testing.T) {
	id := "sha256:" + strings.Repeat("1", 64)
	image := runtime.Event{Type: "image", Action: "tag", ID: id, Attributes: map[string]string{"name": "example.org:5000/web:1"}}
	container := runtime.Event{Type: "container", Action: "start", ID: "c", Attributes: map[string]string{"image": "example.org:5000/web:1", "name": "web"}}
	volume := runtime.Event{Type: "volume", Action: "create", ID: "v"}
	for value, want := range map[string]string{
		"example.org:5000/web:1": "image container", "example.org:5000/web": "image container", id: "image", "web": "", "example.org": "",
	} {
		var got []string
		for _, e := range []runtime.Event{image, container, volume} {
			if (filters{"image": {value}}).event(e) {
				got = append(got, e.Type)
			}
		}
		if strings.Join(got, " ") != want {
			t.Errorf("image=%s: %v, want %s", value, got, want)
		}
	}
	if (filters{"plugin": {"x"}}).event(container) {
		t.Error("a container's event is a plugin's")
	}
}
