package api

import (
	"errors"
	"io"
	"strings"
	"sync"
)

// gate stands between the engine, which attaches first, and a connection,
// which is taken over second. Until it opens, reads and writes wait; once it
// is shut, they fail.
type gate struct {
	once    sync.Once
	decided chan struct{}
	in      io.Reader
	out     io.Writer
}

var errGateShut = errors.New("the client has left")

func newGate() *gate { return &gate{decided: make(chan struct{})} }

func (g *gate) open(in io.Reader, out io.Writer) {
	g.once.Do(func() {
		g.in, g.out = in, out
		close(g.decided)
	})
}

// shut is without effect on an open gate: there the connection itself ends.
func (g *gate) shut() { g.once.Do(func() { close(g.decided) }) }

func (g *gate) Read(p []byte) (int, error) {
	<-g.decided
	if g.in == nil {
		return 0, errGateShut
	}
	return g.in.Read(p)
}

func (g *gate) Write(p []byte) (int, error) {
	<-g.decided
	if g.out == nil {
		return 0, errGateShut
	}
	return g.out.Write(p)
}

// detachKeys parses the keys that leave a terminal, "ctrl-p,ctrl-q" unless
// said otherwise: letters, and ctrl- with one of a-z @ [ \ ] ^ _.
func detachKeys(text string) ([]byte, error) {
	if text == "" {
		text = "ctrl-p,ctrl-q"
	}
	var keys []byte
	for key := range strings.SplitSeq(text, ",") {
		c, ctrl := strings.CutPrefix(key, "ctrl-")
		switch {
		case len(c) != 1:
			return nil, invalid("invalid detach keys (%s) provided: %q is neither a character nor ctrl- and one", text, key)
		case !ctrl:
			keys = append(keys, c[0])
		case c[0] >= 'a' && c[0] <= 'z':
			keys = append(keys, c[0]-'a'+1)
		case c[0] >= '@' && c[0] <= '_':
			keys = append(keys, c[0]-'@')
		default:
			return nil, invalid("invalid detach keys (%s) provided: there is no %q", text, key)
		}
	}
	return keys, nil
}

// detacher passes a terminal's input on until the keys that leave it come in
// a row. A beginning of the row that is not gone on with is passed on late.
type detacher struct {
	in       io.Reader
	keys     []byte
	detached chan<- struct{}

	held []byte // keys seen so far
	left bool
	rest []byte // input to be given before more is read
	err  error
}

func (d *detacher) Read(p []byte) (int, error) {
	for len(d.rest) == 0 {
		if d.left {
			return 0, io.EOF
		}
		if d.err != nil {
			return 0, d.err
		}
		buf := make([]byte, len(p))
		n, err := d.in.Read(buf)
		d.take(buf[:n])
		if err != nil && !d.left {
			d.rest, d.held = append(d.rest, d.held...), nil
			d.err = err
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

func (d *detacher) take(in []byte) {
	for _, c := range in {
		for c != d.keys[len(d.held)] && len(d.held) > 0 {
			// Give the first one back and see whether the others begin a row.
			d.rest = append(d.rest, d.held[0])
			again := d.held[1:]
			d.held = nil
			for _, k := range again {
				d.take([]byte{k})
			}
		}
		if c != d.keys[len(d.held)] {
			d.rest = append(d.rest, c)
			continue
		}
		if d.held = append(d.held, c); len(d.held) == len(d.keys) {
			d.left = true
			close(d.detached)
			return
		}
	}
}
