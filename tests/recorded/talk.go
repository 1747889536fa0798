package recorded

import (
	"archive/tar"
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// talk is a connection with one request on it.
type talk struct {
	x      *Exchange
	shape  *shaper
	conn   net.Conn
	answer *http.Response
	from   io.Reader // what follows the header
	came   bytes.Buffer
	cut    bool // the client has hung up
}

func (t *talk) close() { _ = t.conn.Close() }

// begin sends an exchange's request and reads the header of the answer.
func (p *Player) begin(ctx context.Context, x *Exchange, shape *shaper) (*talk, error) {
	for _, d := range x.Directives {
		if rest, ok := strings.CutPrefix(d, "settle "); ok {
			name, state, _ := strings.Cut(rest, " ")
			if err := p.settle(ctx, shape.fill(name), state); err != nil {
				return nil, err
			}
		}
	}
	filled := *x
	filled.Target = shape.fill(x.Target)
	body := []byte(shape.fill(strings.Join(x.Body, "\n")))
	if what, ok := x.directive("body"); ok {
		var err error
		if body, err = archiveBody(what, p.Busybox); err != nil {
			return nil, err
		}
		filled.Header = append([]string{"Content-Type: application/x-tar"}, x.Header...)
	}
	t, err := p.open(ctx, &filled, body)
	if err != nil {
		return nil, err
	}
	t.x, t.shape = x, shape
	return t, nil
}

// settle waits until a container is in a state.
func (p *Player) settle(ctx context.Context, name, state string) error {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		what := "/containers/"
		if state == "over" {
			what = "/exec/"
		}
		text, err := p.call(ctx, http.MethodGet, what+name+"/json", nil)
		if err != nil && state == "gone" {
			return nil
		} else if err != nil {
			return err
		}
		var c struct {
			State struct {
				Status string
				Health struct{ Status string }
			}
		}
		if state == "over" {
			var x struct{ Running bool }
			if err := json.Unmarshal(text, &x); err != nil {
				return err
			}
			if !x.Running {
				return nil
			}
			continue
		}
		if err := json.Unmarshal(text, &c); err != nil {
			return err
		}
		if c.State.Status == state || c.State.Health.Status == state {
			return nil
		}
	}
	return fmt.Errorf("%s is not %s within %s", name, state, patience)
}

// open connects, sends a request and reads the header of its answer.
func (p *Player) open(ctx context.Context, x *Exchange, body []byte) (*talk, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", p.Socket)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: docker\r\n", x.Method, escape(x.Target))
	said := map[string]bool{}
	for _, h := range x.Header {
		name, value, _ := strings.Cut(h, ":")
		said[strings.ToLower(name)] = true
		if strings.TrimSpace(value) != "" {
			b.WriteString(h + "\r\n")
		}
	}
	if len(body) > 0 && !said["content-type"] {
		b.WriteString("Content-Type: application/json\r\n")
	}
	if !said["connection"] {
		b.WriteString("Connection: close\r\n")
	}
	if len(body) > 0 || x.Method == http.MethodPost || x.Method == http.MethodPut {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	b.WriteString("\r\n")
	b.Write(body)
	t := &talk{x: x, conn: conn}
	// An answer may come before all of a body is read, and the rest is refused.
	_, sendErr := conn.Write(b.Bytes())
	in := bufio.NewReader(conn)
	t.answer, err = http.ReadResponse(in, &http.Request{Method: x.Method}) //nolint:bodyclose // t.close does
	if err != nil {
		t.close()
		return nil, errors.Join(sendErr, fmt.Errorf("read the answer: %w", err))
	}
	t.from = t.answer.Body
	if t.answer.StatusCode == http.StatusSwitchingProtocols {
		t.from = in
	}
	return t, nil
}

// escape writes a target as it may stand in a request, so that scenes can be
// read.
func escape(target string) string {
	var b strings.Builder
	for _, c := range []byte(target) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"{}[]<>|\\^`", c) >= 0 {
			fmt.Fprintf(&b, "%%%02X", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// finish has the client do its part, reads the answer and writes it down.
func (t *talk) finish() error {
	_ = t.conn.SetDeadline(time.Now().Add(patience))
	for _, d := range t.x.Directives {
		verb, rest, _ := strings.Cut(d, " ")
		text := t.shape.fill(rest)
		if plain, err := strconv.Unquote(text); err == nil {
			text = plain
		}
		switch verb {
		case "send":
			if _, err := io.WriteString(t.conn, text); err != nil {
				return fmt.Errorf("send %q: %w", text, err)
			}
		case "expect":
			if err := t.expect(text); err != nil {
				return fmt.Errorf("expect %q: %w", text, err)
			}
		case "eof":
			if err := t.conn.(*net.UnixConn).CloseWrite(); err != nil {
				return fmt.Errorf("close the writing side: %w", err)
			}
		case "hangup":
			t.cut = true
		case "let", "body", "background", "settle", "shape", "sort", "frames", "streams", "from", "join":
		default:
			return fmt.Errorf("%q is no directive", d)
		}
	}
	if !t.cut {
		if err := t.read(); err != nil {
			return fmt.Errorf("read the answer: %w, after %q", err, t.came.String())
		}
	}
	t.close()
	if what, ok := t.x.directive("let"); ok {
		if err := t.let(what); err != nil {
			return err
		}
	}
	return t.write()
}

// read takes the rest of the answer.
func (t *talk) read() error {
	_, err := io.Copy(&t.came, t.from)
	return err
}

// expect reads until a text has come, and the line it is in.
func (t *talk) expect(text string) error {
	one := make([]byte, 1)
	for {
		if i := bytes.Index(t.came.Bytes(), []byte(text)); i >= 0 &&
			(!t.json() || bytes.IndexByte(t.came.Bytes()[i:], '\n') >= 0) {
			return nil
		}
		n, err := t.from.Read(one)
		t.came.Write(one[:n])
		if err != nil {
			return fmt.Errorf("%w, after %q", err, t.came.String())
		}
	}
}

func (t *talk) kind() string {
	kind, _, _ := mime.ParseMediaType(t.answer.Header.Get("Content-Type"))
	return kind
}

// json reports whether an answer is JSON; some that are do not say so.
func (t *talk) json() bool {
	return t.kind() == "application/json" || t.kind() == "" && bytes.HasPrefix(t.came.Bytes(), []byte("{"))
}

// let gives a name to an id in the answer.
func (t *talk) let(what string) error {
	name, key, ok := strings.Cut(what, " ")
	if !ok {
		key = "Id"
	}
	values, err := readValues(t.came.Bytes())
	if err != nil {
		return fmt.Errorf("let %s: %w", name, err)
	}
	for _, v := range values {
		if list, ok := v.([]any); ok && len(list) > 0 {
			v = list[0]
		}
		if m, ok := v.(map[string]any); ok {
			if id, ok := m[key].(string); ok {
				t.shape.let(name, id)
				return nil
			}
		}
	}
	// The scene goes on with a name that means nothing: the difference is seen.
	t.shape.let(name, "unknown-"+name)
	return nil
}

// always are headers of every answer, told only where one is missing.
var always = []string{"Api-Version", "Docker-Experimental", "Ostype", "Server"}

// kept are the headers that clients read.
var kept = []string{
	"Upgrade", "X-Docker-Container-Path-Stat", "Swarm", "Cache-Control", "Pragma", "Location", "X-Registry-Config",
}

// write keeps the answer in its exchange.
func (t *talk) write() error {
	h := t.answer.Header
	a := Answer{Status: strings.TrimSpace(strconv.Itoa(t.answer.StatusCode) + " " + h.Get("Content-Type"))}
	var missing []string
	for _, name := range always {
		if h.Get(name) == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		a.Header = append(a.Header, "no "+strings.Join(missing, ", "))
	}
	for _, name := range kept {
		if value := h.Get(name); value != "" {
			a.Header = append(a.Header, name+": "+t.header(name, value))
		}
	}
	var err error
	a.Body, err = t.body()
	t.x.Answer = a
	return err
}

func (t *talk) header(name, value string) string {
	if name != "X-Docker-Container-Path-Stat" {
		return value
	}
	text, err := base64.StdEncoding.DecodeString(value)
	if err != nil {
		return value
	}
	values, err := readValues(text)
	if err != nil || len(values) == 0 {
		return value
	}
	stat, _ := values[0].(map[string]any)
	if mode, ok := stat["mode"].(json.Number); ok {
		if n, _ := mode.Int64(); n&(1<<31) != 0 { // fs.ModeDir
			stat["size"] = "{number}"
		}
	}
	return oneLine(t.shape.value("", stat))
}

// body writes down what came after the header.
func (t *talk) body() ([]string, error) {
	data := t.came.Bytes()
	if len(data) == 0 {
		return nil, nil
	}
	if text, ok := t.x.directive("from"); ok {
		if _, rest, found := bytes.Cut(data, []byte(text)); found {
			data = append([]byte(text), rest...)
		}
	}
	_, frames := t.x.directive("frames")
	_, streams := t.x.directive("streams")
	_, shapeless := t.x.directive("shape")
	switch {
	case t.json():
		values, err := readValues(data)
		if err != nil { // it said JSON and is none: it is shown as it is
			return []string{strconv.Quote(t.shape.text(string(data)))}, nil //nolint:nilerr // see above
		}
		var lines []string
		for _, v := range values {
			v = t.shape.value("", v)
			if _, ok := t.x.directive("shape"); ok {
				v = types(v)
			}
			if _, ok := t.x.directive("sort"); ok {
				v = sorted(v)
			}
			if len(values) > 1 {
				lines = append(lines, oneLine(v))
			} else {
				lines = printValue(v)
			}
		}
		return lines, nil
	case t.answer.StatusCode >= 300:
	case shapeless:
		return []string{strconv.Quote("...")}, nil
	case frames || streams:
		return t.frames(data, streams)
	case t.kind() == "application/x-tar":
		return t.listing(data)
	}
	return []string{strconv.Quote(t.shape.text(string(data)))}, nil
}

// sorted orders a list, or the lists of an object.
func sorted(v any) any {
	switch v := v.(type) {
	case []any:
		slices.SortFunc(v, func(a, b any) int { return strings.Compare(sortKey(a), sortKey(b)) })
	case map[string]any:
		for _, inner := range v {
			if list, ok := inner.([]any); ok {
				sorted(list)
			}
		}
	}
	return v
}

// sortKey is an element's name, or else all of it.
func sortKey(v any) string {
	if m, ok := v.(map[string]any); ok {
		if port, ok := m["PrivatePort"].(json.Number); ok {
			return port.String()
		}
		for _, key := range []string{"Name", "Destination", "Target", "Path"} {
			if name, ok := m[key].(string); ok && name != "" {
				return name
			}
		}
	}
	return oneLine(v)
}

// frames writes a multiplexed stream: which stream, and its text. Pieces of
// one stream that follow each other are one.
func (t *talk) frames(data []byte, apart bool) ([]string, error) {
	type piece struct {
		stream byte
		text   string
	}
	var all []piece
	for len(data) > 0 {
		if len(data) < 8 || len(data)-8 < int(binary.BigEndian.Uint32(data[4:8])) {
			if t.cut {
				break // in the middle of a frame
			}
			return []string{fmt.Sprintf("no frame: %q", data)}, nil
		}
		n := int(binary.BigEndian.Uint32(data[4:8]))
		p := piece{data[0], string(data[8 : 8+n])}
		data = data[8+n:]
		i := len(all) - 1
		if apart {
			i = slices.IndexFunc(all, func(q piece) bool { return q.stream == p.stream })
		}
		if i >= 0 && all[i].stream == p.stream {
			all[i].text += p.text
		} else {
			all = append(all, p)
		}
	}
	if apart {
		slices.SortFunc(all, func(a, b piece) int { return int(a.stream) - int(b.stream) })
	}
	names := []string{"stdin", "stdout", "stderr", "error"}
	var lines []string
	for _, p := range all {
		name := strconv.Itoa(int(p.stream))
		if int(p.stream) < len(names) {
			name = names[p.stream]
		}
		lines = append(lines, name+" "+strconv.Quote(t.shape.text(p.text)))
	}
	return lines, nil
}

// listing writes what an archive holds; of one with many files, the kinds.
func (t *talk) listing(data []byte) ([]string, error) {
	var lines []string
	for r := tar.NewReader(bytes.NewReader(data)); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			lines = append(lines, "no archive: "+err.Error())
			break
		}
		lines = append(lines, fmt.Sprintf("%c %04o %d:%d %s", h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid, cmp.Or(t.shape.text(strings.TrimPrefix(h.Name, "./")), ".")))
	}
	slices.Sort(lines)
	return lines, nil
}
