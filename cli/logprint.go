package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"gantry/client"
)

// logPrinter writes lines of several containers to one place, each behind the
// name of its container, in a colour of its own:
//
//	web-1  | GET /
type logPrinter struct {
	out        io.Writer
	prefix     bool
	colour     bool
	timestamps bool

	mu      sync.Mutex
	width   int
	colours map[string]string
}

// logColours are handed out in turn.
var logColours = []string{cyan, yellow, green, "35", blue, "96", "93", "92", "95", "94"}

// know makes room for names, so that the column stands still.
func (p *logPrinter) know(names ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range names {
		p.colourOf(n)
	}
}

func (p *logPrinter) colourOf(name string) string {
	if p.colours == nil {
		p.colours = map[string]string{}
	}
	if _, ok := p.colours[name]; !ok {
		p.colours[name] = logColours[len(p.colours)%len(logColours)]
		p.width = max(p.width, len(name))
	}
	return p.colours[name]
}

// print writes one line of a container's log.
func (p *logPrinter) print(name string, l logLine) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var b bytes.Buffer
	colour := p.colourOf(name)
	if p.prefix {
		b.WriteString(paint(p.colour, colour, pad(name, p.width)+"  | "))
	}
	if p.timestamps {
		b.WriteString(l.stamp + " ")
	}
	b.Write(l.text)
	b.WriteByte('\n')
	_, _ = p.out.Write(b.Bytes()) // results tells what was lost
}

// say writes a line about a container that is not its own.
func (p *logPrinter) say(name, text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	io.WriteString(p.out, paint(p.colour, p.colourOf(name), pad(name, p.width)+text)+"\n")
}

// logLine is a line of a log with its time.
type logLine struct {
	at    time.Time
	stamp string // at as the daemon wrote it
	text  []byte
}

// readLog opens a container's log and calls each for every line until the log
// ends or each returns an error. Lines come with their times whether they are
// shown or not: merging and going on need them.
func readLog(ctx context.Context, c *client.Client, id string, o client.LogsOptions, each func(logLine) error) error {
	o.Timestamps, o.Stdout, o.Stderr = true, true, true
	body, err := c.Logs(ctx, id, o)
	if err != nil {
		return err
	}
	defer body.Close()
	in := bufio.NewReaderSize(body, 32<<10)
	// A frame begins with the number of a stream, 0 to 2; a raw line, of a
	// container with a terminal, with the year.
	first, err := in.Peek(1)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return logError(ctx, err)
	}
	lines := &lineWriter{each: each}
	if first[0] > 2 {
		_, err = io.Copy(lines, in)
	} else {
		err = client.Demux(lines, lines, in)
	}
	if lines.err != nil {
		return lines.err
	}
	if err != nil {
		return logError(ctx, err)
	}
	return lines.flush()
}

// logError tells an interrupted read from a broken one.
func logError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// lineWriter parts what is written into lines "TIME TEXT\n".
type lineWriter struct {
	each func(logLine) error
	rest []byte
	err  error
}

func (w *lineWriter) Write(p []byte) (int, error) {
	n := len(p)
	for {
		line, rest, found := bytes.Cut(p, []byte{'\n'})
		if !found {
			w.rest = append(w.rest, p...)
			return n, nil
		}
		if len(w.rest) > 0 {
			line = append(w.rest, line...)
			w.rest = nil
		}
		if err := w.line(line); err != nil {
			return 0, err
		}
		p = rest
	}
}

func (w *lineWriter) line(line []byte) error {
	stamp, text, ok := bytes.Cut(line, []byte{' '})
	l := logLine{stamp: string(stamp), text: text}
	var err error
	if l.at, err = time.Parse(time.RFC3339Nano, l.stamp); !ok && err != nil {
		l = logLine{text: line}
	}
	l.text = bytes.TrimSuffix(bytes.Clone(l.text), []byte{'\r'})
	w.err = w.each(l)
	return w.err
}

// flush passes on a last line that does not end in one.
func (w *lineWriter) flush() error {
	if len(w.rest) == 0 {
		return nil
	}
	line := w.rest
	w.rest = nil
	return w.line(line)
}
