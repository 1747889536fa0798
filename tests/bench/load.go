package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// load is a bounded number of clients that each ask as soon as they have been
// answered.
type load struct {
	Addr    string
	Clients int
	For     time.Duration
	Kept    bool // each keeps its connection; else one for every request
}

// loaded is what a load has seen.
type loaded struct {
	PerSecond float64
	P50, P99  float64 // µs
}

// run asks from this process. The client does as little as it can: what it
// spends is taken from both CPUs, and makes the way to the server look short.
func (l load) run() (loaded, error) {
	request := []byte("GET / HTTP/1.1\r\nHost: bench\r\n\r\n")
	latencies := make([][]time.Duration, l.Clients)
	errs := make([]error, l.Clients)
	var clients sync.WaitGroup
	began := time.Now()
	end := began.Add(l.For)
	for i := range l.Clients {
		clients.Go(func() { latencies[i], errs[i] = l.client(request, end) })
	}
	clients.Wait()
	took := time.Since(began)
	if err := errors.Join(errs...); err != nil {
		return loaded{}, err
	}
	all := slices.Concat(latencies...)
	if len(all) == 0 {
		return loaded{}, errors.New("no request was answered")
	}
	slices.Sort(all)
	at := func(q float64) float64 {
		return float64(all[int(q*float64(len(all)-1))]) / float64(time.Microsecond)
	}
	return loaded{PerSecond: float64(len(all)) / took.Seconds(), P50: at(0.5), P99: at(0.99)}, nil
}

func (l load) client(request []byte, end time.Time) (took []time.Duration, err error) {
	var conn net.Conn
	var r *bufio.Reader
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for {
		began := time.Now()
		if began.After(end) {
			return took, nil
		}
		if conn == nil {
			if conn, err = net.DialTimeout("tcp", l.Addr, 5*time.Second); err != nil {
				return took, err
			}
			// A reset instead of a goodbye: thousands of connections a second
			// would leave no port free.
			if err := conn.(*net.TCPConn).SetLinger(0); err != nil {
				return took, err
			}
			r = bufio.NewReader(conn)
		}
		if err := conn.SetDeadline(began.Add(5 * time.Second)); err != nil {
			return took, err
		}
		if _, err := conn.Write(request); err != nil {
			return took, err
		}
		if err := readResponse(r); err != nil {
			return took, err
		}
		took = append(took, time.Since(began))
		if !l.Kept {
			conn.Close()
			conn = nil
		}
	}
}

var errResponse = errors.New("the answer is not what the payload gives")

// readResponse reads what tests/bench/payload answers.
func readResponse(r *bufio.Reader) error {
	length := 0
	for first := true; ; first = false {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		switch value, ok := bytes.CutPrefix(line, []byte("Content-Length: ")); {
		case first:
			if !bytes.HasPrefix(line, []byte("HTTP/1.1 200")) {
				return errResponse
			}
		case ok:
			if length, err = strconv.Atoi(string(value)); err != nil {
				return errResponse
			}
		case len(line) == 0:
			if length == 0 {
				return errResponse
			}
			_, err := r.Discard(length)
			return err
		}
	}
}

// from runs the load in a process of its own, begun by the command enter.
func (l load) from(ctx context.Context, enter []string) (loaded, error) {
	if l.Kept && l.For >= time.Second {
		return l.wrk(ctx, enter)
	}
	ctx, cancel := context.WithTimeout(ctx, l.For+20*time.Second)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return loaded{}, err
	}
	args := append(slices.Clone(enter), self, "load", l.Addr, strconv.Itoa(l.Clients), l.For.String(), strconv.FormatBool(l.Kept))
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return loaded{}, fmt.Errorf("requests to %s: %w: %s", l.Addr, err, tail(errs.String()))
	}
	var seen loaded
	return seen, json.Unmarshal(out, &seen)
}

// loadMode is the life of such a process.
func loadMode(args []string) error {
	if len(args) != 4 {
		return errors.New("load: wants ADDRESS CLIENTS DURATION KEPT")
	}
	l := load{Addr: args[0]}
	var err error
	if l.Clients, err = strconv.Atoi(args[1]); err != nil {
		return err
	}
	if l.For, err = time.ParseDuration(args[2]); err != nil {
		return err
	}
	if l.Kept, err = strconv.ParseBool(args[3]); err != nil {
		return err
	}
	seen, err := l.run()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(seen)
}

// hostServer is the payload on the host's own loopback.
type hostServer struct {
	addr string
	cmd  *exec.Cmd
}

func startHostServer(payload string) (*hostServer, error) {
	cmd := exec.Command(payload, "127.0.0.1:0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &hostServer{cmd: cmd}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.close()
		return nil, fmt.Errorf("payload: %w", err)
	}
	s.addr = strings.TrimSpace(line)
	return s, nil
}

func (s *hostServer) close() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
}

// freePort finds a port nobody uses on this host.
func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

// answers waits until a server behind a published port does.
func answers(ctx context.Context, addr string, enter []string) error {
	var err error
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if _, err = (load{Addr: addr, Clients: 1, For: time.Millisecond, Kept: true}).from(ctx, enter); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return err
}
