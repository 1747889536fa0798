package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"gantry/network"
	"gantry/runtime/spec"
)

// A probe from outside costs one socket and no process. It is made in the
// container's network namespace, so it needs no published port, passes no
// firewall, and sees what a process in the container would: it asks the
// loopback first, which is where a check inside would ask, and then the
// container's own addresses, for services that listen on nothing else.

// probeHeaders bounds what a service may answer before its body.
const probeHeaders = 64 << 10

// probeOutside makes one probe from outside.
func (e *Engine) probeOutside(ctx context.Context, c Container, hc spec.Healthcheck) Probe {
	p := Probe{Start: time.Now()}
	target, err := hc.Target()
	if err == nil {
		limited, cancel := context.WithTimeoutCause(ctx, hc.Timeout, fmt.Errorf("no answer within %s", hc.Timeout))
		defer cancel()
		p.Output, err = e.ask(limited, c, target)
		if limited.Err() != nil && err != nil {
			p.ExitCode, err = -1, context.Cause(limited)
		}
	}
	if p.End = time.Now(); err != nil {
		if p.ExitCode == 0 {
			p.ExitCode = 1
		}
		p.Output = strings.TrimPrefix(p.Output+"\n"+err.Error(), "\n")
		if c.Health.Status != Starting { // there, to be refused is usual, and the next probe is near
			awaitEnd(ctx)
		}
	}
	return p
}

// ask is what a service says to a probe; an error is a probe that has failed.
func (e *Engine) ask(ctx context.Context, c Container, t spec.Target) (output string, err error) {
	dial := func(ctx context.Context) (net.Conn, error) {
		return network.Dial(ctx, e.namespaceOf(c), addresses(c, t.Port)...)
	}
	if t.Path == "" {
		conn, err := dial(ctx)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("port %d takes connections", t.Port), conn.Close()
	}
	ways := &http.Transport{
		DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: probeHeaders,
		ReadBufferSize:         1 << 10,
		WriteBufferSize:        1 << 10,
	}
	defer ways.CloseIdleConnections()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://localhost:%d%s", t.Port, t.Path), nil)
	if err != nil {
		return "", err
	}
	r.Header.Set("User-Agent", "gantry-healthcheck")
	answer, err := ways.RoundTrip(r) // follows no redirect: one is an answer as well
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	// No more than what is kept: a stream that never ends is an answer, too.
	body, err := io.ReadAll(io.LimitReader(answer.Body, probeOutput))
	if output = answer.Status; len(body) > 0 {
		output += "\n" + string(body)
	}
	switch {
	case answer.StatusCode < 200 || answer.StatusCode > 399:
		return output, errors.New("the status is not 2xx or 3xx")
	case err != nil:
		return output, fmt.Errorf("read the answer: %w", err)
	}
	return output, nil
}

// namespaceOf is the network namespace a running container is in, "" for the
// host's.
func (e *Engine) namespaceOf(c Container) string {
	switch {
	case ownNetwork(c.Config.Network.Mode):
		return e.Fabric.Namespace(c.ID)
	case c.Config.Network.Mode == "host":
		return ""
	}
	return fmt.Sprintf("/proc/%d/ns/net", c.Pid)
}

// addresses are those at which a container may listen on a port.
func addresses(c Container, port uint16) []netip.AddrPort {
	all := []netip.AddrPort{
		netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port),
		netip.AddrPortFrom(netip.IPv6Loopback(), port),
	}
	for _, n := range c.Networks {
		for _, a := range []netip.Addr{n.IPv4.Addr(), n.IPv6.Addr()} {
			if a.IsValid() {
				all = append(all, netip.AddrPortFrom(a, port))
			}
		}
	}
	return all
}
