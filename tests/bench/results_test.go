package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func TestSpread(t *testing.T) {
	s := spreadOf([]float64{50, 10, 40, 20, 30})
	if s.N != 5 || s.Median != 30 || s.P10 != 14 || s.P90 != 46 {
		t.Errorf("spread of 10 to 50: %+v", s)
	}
	if s := spreadOf([]float64{7}); s.Median != 7 || s.P10 != 7 || s.P90 != 7 {
		t.Errorf("spread of one sample: %+v", s)
	}
}

func TestVerdict(t *testing.T) {
	r := newResults()
	check := func(w *row, want string, met, known bool) {
		t.Helper()
		if gotWant, gotMet, gotKnown := r.verdict(w); gotWant != want || gotMet != met || gotKnown != known {
			t.Errorf("%s: %q %v %v, want %q %v %v", w.name, gotWant, gotMet, gotKnown, want, met, known)
		}
	}
	check(up1, "≤ 90.0", true, false) // nothing measured
	r.add(up1, gantryColumn, 90)
	check(up1, "≤ 90.0", true, true)
	r.add(up1, gantryColumn, 200)
	check(up1, "≤ 90.0", false, true)
	check(up10, "", false, false) // no target

	r.add(restart, gantryColumn, 50)
	check(restart, "≤ bare + 15.0", false, false)
	r.add(runs, bareColumn, 35)
	check(restart, "≤ 50.0", true, true)

	r.add(keptShare, gantryColumn, 0.79)
	check(keptShare, "≥ 0.80", false, true)
	check(pullLarge, "≤ 1.50 × gantry", false, false)
	r.add(loadLarge, gantryColumn, 1600)
	check(loadLarge, "≤ 1.50 × bare", false, false)
	r.add(loadLarge, bareColumn, 1000)
	check(loadLarge, "≤ 1500", false, true)
	r.add(pullLarge, gantryColumn, 2400)
	check(pullLarge, "≤ 2400", true, true)

	if n, of := r.missed(); n != 3 || of != 5 {
		t.Errorf("%d of %d targets missed, want 3 of 5", n, of)
	}
}

func TestTable(t *testing.T) {
	r := newResults()
	r.add(up1, gantryColumn, 80)
	r.note(dockerColumn, "it\nis not there")
	r.note(dockerColumn, "it is not there")
	var b strings.Builder
	r.print(&b, func(w *row) bool { return w == up1 })
	for _, want := range []string{"80.0  80.0–80.0 n1", "· see below", "≤ 90.0", "met", "docker: it is not there"} {
		if strings.Count(b.String(), want) != 1 {
			t.Errorf("%q is not in the table once:\n%s", want, &b)
		}
	}
	var doc bytes.Buffer
	if err := r.writeJSON(&doc, document{}, func(*row) bool { return true }); err != nil {
		t.Fatal(err)
	}
	var d struct{ Rows []struct{ Name string } }
	if err := json.Unmarshal(doc.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, w := range d.Rows {
		if seen[w.Name] {
			t.Errorf("two rows are named %q", w.Name)
		}
		seen[w.Name] = true
	}
}

// Every row is filled by a scene, and named once: names choose scenes.
func TestEveryRowIsMeasured(t *testing.T) {
	filled := map[*row]int{rss0: 1, pss0: 1} // between scenes
	for _, s := range scenes {
		for _, w := range s.rows {
			filled[w]++
		}
	}
	for _, w := range rows {
		if filled[w] != 1 {
			t.Errorf("%q is in %d scenes", w.name, filled[w])
		}
		delete(filled, w)
	}
	for w := range filled {
		t.Errorf("%q is measured and not shown", w.name)
	}
}

func TestLoadCountsAnswers(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("hello"))
	}))
	defer s.Close()
	for _, kept := range []bool{true, false} {
		seen, err := load{Addr: s.Listener.Addr().String(), Clients: 2, For: 50 * time.Millisecond, Kept: kept}.run()
		if err != nil {
			t.Fatal(err)
		}
		if seen.PerSecond <= 0 || seen.P50 <= 0 || seen.P99 < seen.P50 {
			t.Errorf("kept %v: %+v", kept, seen)
		}
	}
}

func TestReadResponse(t *testing.T) {
	for text, ok := range map[string]bool{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi":        true,
		"HTTP/1.1 502 Bad\r\nContent-Length: 2\r\n\r\nhi":       false,
		"HTTP/1.1 200 OK\r\n\r\n":                               false,
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi":        false,
		"HTTP/1.1 200 OK\r\nContent-Length: a\r\n\r\nhi":        false,
		"HTTP/1.1 200 OK\r\nDate: x\r\nContent-Length: 1\r\n\r": false,
	} {
		if err := readResponse(bufio.NewReader(strings.NewReader(text))); (err == nil) != ok {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestReadProc(t *testing.T) {
	if pid, name, parent := parseStat("12 (a) b (c) S 7 12 0"); pid != 12 || name != "a) b (c" || parent != 7 {
		t.Errorf("stat: %d %q %d", pid, name, parent)
	}
	if mb := smaps("Size: 9 kB\nRss:  1000 kB\nPss:   500 kB\n", "Pss:"); mb != 0.512 {
		t.Errorf("smaps: %v MB", mb)
	}
}

func TestReadWrk(t *testing.T) {
	const text = `Running 2s test @ http://127.0.0.1:28080/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   450.11us  612.20us   9.51ms   92.10%
    Req/Sec    42.08k     2.10k   45.90k    75.00%
  Latency Distribution
     50%  306.00us
     75%  390.00us
     90%  800.00us
     99%    2.50ms
  83828 requests in 2.00s, 27.02MB read
Requests/sec:  41869.37
Transfer/sec:     13.49MB
`
	got, err := readWrk([]byte(text))
	if want := (loaded{PerSecond: 41869.37, P50: 306, P99: 2500}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := readWrk([]byte(strings.Replace(text, "Requests/sec", "  Socket errors: connect 0, read 3, write 0, timeout 0\nRequests/sec", 1))); err == nil {
		t.Error("failed requests were counted")
	}
	if _, err := readWrk(nil); err == nil {
		t.Error("nothing is not a result")
	}
}
