package cli

import (
	"encoding/binary"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"gantry/client"

	"github.com/google/go-cmp/cmp"
)

// framed writes lines as the daemon frames them, with their times.
func framed(w http.ResponseWriter, stream byte, lines ...string) {
	for _, l := range lines {
		var head [8]byte
		head[0] = stream
		binary.BigEndian.PutUint32(head[4:], uint32(len(l)))
		_, _ = w.Write(append(head[:], l...))
	}
}

func at(second int, text string) string {
	return time.Unix(int64(second), 0).UTC().Format(time.RFC3339Nano) + " " + text
}

func shop(d *fakeDaemon) []client.Container {
	list := []client.Container{container("shop", "web", 1, "running"), container("shop", "web", 2, "running"),
		container("shop", "db", 1, "exited")}
	d.say("GET /containers/json", list)
	return list
}

func TestLogsAreMergedByTime(t *testing.T) {
	d := newDaemon(t)
	list := shop(d)
	log := func(c client.Container, write func(http.ResponseWriter)) {
		d.answers["GET /containers/"+c.ID+"/logs"] = func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Query().Get("tail") != "5" || r.URL.Query().Get("timestamps") != "1" {
				t.Errorf("asked for %s", r.URL.RawQuery)
			}
			write(w)
		}
	}
	log(list[0], func(w http.ResponseWriter) { framed(w, 1, at(1, "one\n"), at(4, "fo"), "ur\n", at(6, "six")) })
	log(list[1], func(w http.ResponseWriter) { framed(w, 2, at(2, "two\n"), at(5, "five\n")) })
	// A container with a terminal: no frames, and lines as terminals have them.
	log(list[2], func(w http.ResponseWriter) { fmt.Fprint(w, at(3, "three\r\n")) })

	r := run(t, nil, "--host", d.host, "-p", "shop", "logs", "-n", "5")
	want := "web-1  | one\nweb-2  | two\ndb-1   | three\nweb-1  | four\nweb-2  | five\nweb-1  | six\n"
	if d := cmp.Diff(want, r.out); r.code != 0 || d != "" {
		t.Errorf("%+v %s", r, d)
	}
	r = run(t, nil, "--host", d.host, "-p", "shop", "logs", "-n", "5", "--no-log-prefix", "-t", "db")
	if want := "1970-01-01T00:00:03Z three\n"; r.out != want {
		t.Errorf("got %q, want %q", r.out, want)
	}
	r = run(t, nil, "--host", d.host, "-p", "shop", "--ansi", "always", "logs", "-n", "5", "--index", "2", "web")
	if want := "\x1b[36mweb-2  | \x1b[0mtwo\n\x1b[36mweb-2  | \x1b[0mfive\n"; r.out != want {
		t.Errorf("got %q, want %q", r.out, want)
	}
}

func TestFollowGoesOnBehindARestart(t *testing.T) {
	d := newDaemon(t)
	c := container("shop", "web", 1, "running")
	ended := make(chan struct{})
	d.answers["GET /containers/json"] = func(w http.ResponseWriter, _ *http.Request) {
		state := c
		select {
		case <-ended:
			state = container("shop", "web", 1, "exited")
		default:
		}
		writeValue(w, []client.Container{state})
	}
	reads := make(chan string, 8)
	var n int
	d.answers["GET /containers/"+c.ID+"/logs"] = func(w http.ResponseWriter, r *http.Request) {
		n++ // one reader at a time
		reads <- r.URL.Query().Get("since")
		framed(w, 1, at(n*10, fmt.Sprintf("life %d\n", n)))
	}
	d.answers["GET /events"] = func(w http.ResponseWriter, _ *http.Request) {
		event := func(action string, attributes map[string]string) {
			all := map[string]string{"name": "shop-web-1"}
			for k, v := range c.Labels {
				all[k] = v
			}
			for k, v := range attributes {
				all[k] = v
			}
			writeValue(w, map[string]any{"Type": "container", "Action": action, "Actor": map[string]any{"ID": c.ID, "Attributes": all}, "timeNano": 1})
			w.(http.Flusher).Flush()
		}
		<-reads // of the first life
		event("start", nil)
		if since := <-reads; since != "10.000000001" {
			t.Errorf("the second life was read from %q", since)
		}
		close(ended)
		event("die", map[string]string{"exitCode": "3"})
	}
	r := run(t, nil, "--host", d.host, "-p", "shop", "logs", "-f")
	if want := "web-1  | life 1\nweb-1  | life 2\n"; r.code != 0 || r.out != want {
		t.Errorf("got %+v, want %q", r, want)
	}
}

// When the daemon dies and the next one is there, following goes on behind the
// last line.
func TestFollowSurvivesTheDaemon(t *testing.T) {
	d := newDaemon(t)
	c := container("shop", "web", 1, "running")
	died, ended := make(chan struct{}), make(chan struct{})
	d.answers["GET /containers/json"] = func(w http.ResponseWriter, _ *http.Request) {
		select {
		case <-ended:
			writeValue(w, []client.Container{container("shop", "web", 1, "exited")})
		default:
			writeValue(w, []client.Container{c})
		}
	}
	var lives atomic.Int32
	d.answers["GET /containers/"+c.ID+"/logs"] = func(w http.ResponseWriter, r *http.Request) {
		switch lives.Add(1) {
		case 1:
			framed(w, 1, at(7, "before\n"))
			w.(http.Flusher).Flush()
			<-died
			panic(http.ErrAbortHandler)
		case 2:
		default:
			return // looked at once more, for having been found running
		}
		if since := r.URL.Query().Get("since"); since != "7.000000001" {
			t.Errorf("gone on with from %q", since)
		}
		framed(w, 1, at(8, "after\n"))
		close(ended)
	}
	var subscriptions atomic.Int32
	d.answers["GET /events"] = func(w http.ResponseWriter, _ *http.Request) {
		w.(http.Flusher).Flush()
		if subscriptions.Add(1) == 1 {
			close(died)
			panic(http.ErrAbortHandler)
		}
		<-ended
		writeValue(w, map[string]any{"Type": "container", "Action": "die", "Actor": map[string]any{"ID": c.ID, "Attributes": c.Labels}})
	}
	r := run(t, nil, "--host", d.host, "-p", "shop", "logs", "-f")
	if want := "web-1  | before\nweb-1  | after\n"; r.code != 0 || r.out != want {
		t.Errorf("got %+v, want %q", r, want)
	}
}

func TestLines(t *testing.T) {
	var got []string
	w := &lineWriter{each: func(l logLine) error { got = append(got, string(l.text)); return nil }}
	text := at(1, "one\n") + at(2, "\n") + at(3, "three and\ttab\n") + at(4, "no end")
	for i := range text { // in the smallest pieces
		if _, err := w.Write([]byte{text[i]}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"one", "", "three and\ttab", "no end"}, got); d != "" {
		t.Error(d)
	}
}

func TestPrinterKeepsTheColumn(t *testing.T) {
	var b strings.Builder
	p := &logPrinter{out: &b, prefix: true}
	p.know("web-1", "database-1")
	p.print("web-1", logLine{text: []byte("x")})
	p.say("web-1", exitText(137))
	if want := "web-1       | x\nweb-1      exited with code 137\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

// A container without a log hides nothing of the others.
func TestLogsOfNone(t *testing.T) {
	d := newDaemon(t)
	list := shop(d)
	d.answers["GET /containers/"+list[0].ID+"/logs"] = func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotImplemented)
		fmt.Fprint(w, `{"message":"shop-web-1 keeps no log"}`)
	}
	for _, c := range list[1:] {
		d.answers["GET /containers/"+c.ID+"/logs"] = func(w http.ResponseWriter, _ *http.Request) { framed(w, 1, at(1, "one\n")) }
	}
	r := run(t, nil, "--host", d.host, "-p", "shop", "logs")
	if want := "db-1   | one\nweb-2  | one\n"; r.code != 0 || r.out != want || r.err != "gantry: warning: shop-web-1 keeps no log\n" {
		t.Errorf("%+v", r)
	}
	d.say("GET /containers/json", list[:1])
	if r := run(t, nil, "--host", d.host, "-p", "shop", "logs"); r.code != 1 || r.err != "gantry: shop-web-1 keeps no log\n" {
		t.Errorf("%+v", r)
	}
}
