package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Clients that do not read, that say half of what they promised, or that close
// one half, hold nobody up, and leave nothing behind when they go.
func TestSlowClientsHoldNobodyUp(t *testing.T) {
	c := testConfig(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ready, over := make(chan struct{}), make(chan error, 1)
	go func() { over <- Run(ctx, c, func() { close(ready) }) }()
	select {
	case <-ready:
	case err := <-over:
		t.Fatal(err)
	}
	path := strings.TrimPrefix(c.Hosts[0], "unix://")
	dial := func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 1}}
	defer client.CloseIdleConnections()
	call := func(method, path, body string) []byte {
		t.Helper()
		req, err := http.NewRequest(method, "http://gantry"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		r, err := client.Do(req)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil || r.StatusCode >= 300 {
			t.Fatalf("%s %s: %d %s %v", method, path, r.StatusCode, b, err)
		}
		return b
	}
	goroutines := func() int {
		var info struct{ NGoroutines int }
		if err := json.Unmarshal(call("GET", "/info", ""), &info); err != nil {
			t.Fatal(err)
		}
		return info.NGoroutines
	}
	before := goroutines()
	var all []*net.UnixConn
	for i := range 60 {
		conn := must2(net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"}))(t)
		all = append(all, conn)
		switch i % 3 {
		case 0: // reads nothing
			fmt.Fprint(conn, "GET /events HTTP/1.1\r\nHost: x\r\n\r\n")
		case 1: // says the half
			fmt.Fprint(conn, "POST /volumes/create HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{")
		case 2: // has a head without an end
			fmt.Fprint(conn, "GET /events HTTP/1.1\r\nHost: x\r\nX-More: ")
		}
	}
	// More events than a socket and the bus have room for.
	for i := range 1500 {
		name := fmt.Sprint("v", i%7)
		call("POST", "/volumes/create", fmt.Sprintf(`{"Name":%q}`, name))
		call("DELETE", "/volumes/"+name, "")
	}
	for _, conn := range all {
		conn.Close()
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if now := goroutines(); now <= before+2 {
			break
		} else if time.Now().After(end) {
			t.Fatalf("%d goroutines before, %d after", before, now)
		}
	}
	client.CloseIdleConnections()
	cancel()
	if err := <-over; err != nil {
		t.Error(err)
	}
	ended(t, opened(t, c))
}
