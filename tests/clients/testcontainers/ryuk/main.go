// Ryuk stands in for testcontainers/ryuk, whose image comes from a registry: it
// removes what a test run leaves behind. It speaks the same protocol. Whoever
// connects to port 8080 sends filters, a line each ("label=a=b&label=c=d"), and
// gets ACK for each. Some time after the last connection has ended, everything
// that passes one of the filters is removed through the socket
// /var/run/docker.sock, and ryuk ends.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"time"
)

func main() {
	listener, err := net.Listen("tcp", ":8080")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("Started")
	r := &ryuk{filters: map[string]bool{}, changed: make(chan struct{}, 1)}
	go r.serve(listener) // ends with the program
	r.waitForTheEnd()
	r.reap()
}

type ryuk struct {
	changed chan struct{} // somebody came or went

	mu      sync.Mutex
	open    int
	ever    bool
	filters map[string]bool
}

func (r *ryuk) serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		r.count(1)
		go func() {
			defer r.count(-1)
			defer conn.Close()
			for lines := bufio.NewScanner(conn); lines.Scan(); {
				r.mu.Lock()
				r.filters[lines.Text()] = true
				r.mu.Unlock()
				fmt.Fprintln(conn, "ACK")
			}
		}()
	}
}

func (r *ryuk) count(n int) {
	r.mu.Lock()
	r.open += n
	r.ever = true
	r.mu.Unlock()
	select {
	case r.changed <- struct{}{}:
	default:
	}
}

// waitForTheEnd returns when nobody has been connected for a while.
func (r *ryuk) waitForTheEnd() {
	first, again := duration("RYUK_CONNECTION_TIMEOUT", time.Minute), duration("RYUK_RECONNECTION_TIMEOUT", 10*time.Second)
	for {
		r.mu.Lock()
		open, ever := r.open, r.ever
		r.mu.Unlock()
		var patience <-chan time.Time
		switch {
		case open > 0:
		case ever:
			patience = time.After(again)
		default:
			patience = time.After(first)
		}
		select {
		case <-patience:
			return
		case <-r.changed:
		}
	}
}

func duration(name string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(os.Getenv(name)); err == nil {
		return d
	}
	return otherwise
}

// reap removes what passes a filter, containers first: they hold the rest.
func (r *ryuk) reap() {
	d := daemon{&http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", "/var/run/docker.sock")
	}}}}
	r.mu.Lock()
	defer r.mu.Unlock()
	for line := range r.filters {
		f, err := url.ParseQuery(line)
		if err != nil || len(f) == 0 {
			log.Printf("filter %q: %v", line, err)
			continue
		}
		var containers, networks []struct{ ID string }
		d.call("GET", "/containers/json?all=1&filters="+asJSON(f), &containers)
		for _, c := range containers {
			d.call("DELETE", "/containers/"+c.ID+"?force=1&v=1", nil)
		}
		d.call("GET", "/networks?filters="+asJSON(f), &networks)
		for _, n := range networks {
			d.call("DELETE", "/networks/"+n.ID, nil)
		}
		var volumes struct{ Volumes []struct{ Name string } }
		d.call("GET", "/volumes?filters="+asJSON(f), &volumes)
		for _, v := range volumes.Volumes {
			d.call("DELETE", "/volumes/"+v.Name+"?force=1", nil)
		}
	}
}

func asJSON(f url.Values) string {
	text, err := json.Marshal(f)
	if err != nil {
		log.Fatal(err)
	}
	return url.QueryEscape(string(text))
}

type daemon struct{ *http.Client }

func (d daemon) call(method, path string, answer any) {
	req, err := http.NewRequest(method, "http://docker"+path, nil)
	if err != nil {
		log.Fatal(err)
	}
	resp, err := d.Do(req)
	if err != nil {
		log.Print(err)
		return
	}
	defer resp.Body.Close()
	if answer != nil {
		err = json.NewDecoder(resp.Body).Decode(answer)
	}
	fmt.Println(method, path, resp.Status, err)
}
