package keeper

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// socketPair gives two connected sockets.
func socketPair(t testing.TB) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		conns[i] = c.(*net.UnixConn)
	}
	return conns[0], conns[1]
}

// TestWire: whatever messages are sent, with whatever descriptors, arrive in
// order, whole, and each with its own descriptors.
func TestWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type sent struct {
			m     Message
			names []string
		}
		var all []sent
		for i := range rapid.IntRange(1, 8).Draw(t, "messages") {
			size := rapid.SampledFrom([]int{0, 1, 100, 5000, 70000, 200000}).Draw(t, "size")
			body, _ := json.Marshal(string(bytes.Repeat([]byte{'x'}, size)))
			s := sent{m: Message{ID: uint64(i + 1), Verb: "v", Body: body}}
			for j := range rapid.SampledFrom([]int{0, 0, 1, 2, 5, 30}).Draw(t, "files") {
				s.names = append(s.names, fmt.Sprintf("%d/%d", i, j))
			}
			all = append(all, s)
		}
		x, y := socketPair(&testing.B{})
		from, to := NewConn(x), NewConn(y)
		defer from.Close()
		defer to.Close()
		fail := make(chan error, 1)
		go func() {
			fail <- func() error {
				for _, s := range all {
					var files []*os.File
					for _, n := range s.names {
						fd, err := unix.MemfdCreate("m", unix.MFD_CLOEXEC)
						if err != nil {
							return err
						}
						f := os.NewFile(uintptr(fd), n)
						fmt.Fprint(f, n)
						files = append(files, f)
					}
					err := from.Send(s.m, files...)
					closeAll(files)
					if err != nil {
						return err
					}
				}
				return from.Close()
			}()
		}()
		for _, s := range all {
			m, files, err := to.Receive()
			if err != nil {
				t.Fatalf("receive: %v", err)
			}
			if m.ID != s.m.ID || !bytes.Equal(m.Body, s.m.Body) || len(files) != len(s.names) {
				t.Fatalf("message %d with %d bytes and %d files came as %d with %d and %d", s.m.ID, len(s.m.Body), len(s.names), m.ID, len(m.Body), len(files))
			}
			for i, f := range files {
				b := make([]byte, 64)
				n, _ := f.ReadAt(b, 0)
				if string(b[:n]) != s.names[i] {
					t.Fatalf("descriptor %q came as %q", s.names[i], b[:n])
				}
			}
			closeAll(files)
		}
		if _, _, err := to.Receive(); err != io.EOF {
			t.Fatalf("at the end: %v", err)
		}
		if err := <-fail; err != nil {
			t.Fatal(err)
		}
	})
}

// TestMostFiles sends as many descriptors as a frame may carry, and one more.
func TestMostFiles(t *testing.T) {
	x, y := socketPair(t)
	from, to := NewConn(x), NewConn(y)
	defer from.Close()
	defer to.Close()
	files := make([]*os.File, MaxFiles+1)
	for i := range files {
		files[i] = os.Stderr
	}
	if err := from.Send(Message{ID: 1}, files...); !errors.Is(err, errProtocol) {
		t.Errorf("too many: %v", err)
	}
	if err := from.Send(Message{ID: 2}, files[:MaxFiles]...); err != nil {
		t.Fatal(err)
	}
	m, got, err := to.Receive()
	if err != nil || m.ID != 2 || len(got) != MaxFiles {
		t.Errorf("%+v, %d files, %v", m, len(got), err)
	}
	closeAll(got)
}

func FuzzParseFrame(f *testing.F) {
	good, _ := appendFrame(nil, Message{ID: 7, Verb: "run", Body: json.RawMessage(`{"a":1}`), Files: 2})
	f.Add(good)
	f.Add(good[:5])
	f.Add([]byte{0, 0, 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 'x'})
	f.Add([]byte{0, 0, 0, 2, '{', '}'})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, n, err := parseFrame(b)
		if err != nil {
			if !errors.Is(err, errProtocol) || n != 0 {
				t.Fatalf("error %v, %d bytes", err, n)
			}
			return
		}
		if n == 0 {
			if len(b) >= 4 && int(binary.BigEndian.Uint32(b)) <= len(b)-4 {
				t.Fatal("a whole frame was not taken")
			}
			return
		}
		if n > len(b) || m.Files < 0 || m.Files > MaxFiles {
			t.Fatalf("took %d of %d, %+v", n, len(b), m)
		}
		again, err := appendFrame(nil, m)
		if err != nil {
			t.Fatal(err)
		}
		if m2, _, err := parseFrame(again); err != nil || m2.ID != m.ID || m2.Verb != m.Verb || m2.Files != m.Files {
			t.Fatalf("%+v became %+v, %v", m, m2, err)
		}
	})
}

// TestWireRefuses: a peer that lies about descriptors or lengths.
func TestWireRefuses(t *testing.T) {
	for name, raw := range map[string][]byte{
		"too long":       {0x7f, 0, 0, 0},
		"empty":          {0, 0, 0, 0},
		"not json":       {0, 0, 0, 1, 'x'},
		"missing files":  frameOf(Message{ID: 1, Verb: "v", Files: 1}),
		"negative files": frameOf(Message{ID: 1, Verb: "v", Files: -1}),
		"nothing":        frameOf(Message{}),
	} {
		x, y := socketPair(t)
		if _, err := x.Write(raw); err != nil {
			t.Fatal(err)
		}
		c := NewConn(y)
		if _, _, err := c.Receive(); !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", name, err)
		}
		x.Close()
		c.Close()
	}
	x, y := socketPair(t)
	frame := frameOf(Message{ID: 1, Verb: "v"})
	x.Write(frame[:len(frame)-1])
	x.Close()
	if _, _, err := NewConn(y).Receive(); err != io.ErrUnexpectedEOF {
		t.Errorf("half a frame: %v", err)
	}
	y.Close()
}

// TestNoRoom: a process that is out of descriptors loses those of a message,
// not the connection.
func TestNoRoom(t *testing.T) {
	x, y := socketPair(t)
	from, to := NewConn(x), NewConn(y)
	defer from.Close()
	defer to.Close()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	for i, m := range []Message{{ID: 1, Verb: "a"}, {ID: 2, Verb: "b"}, {ID: 3, Verb: "c"}, {ID: 4, Verb: "d"}} {
		files := []*os.File{r, w}[:min(2, 2*(i%2))]
		if err := from.Send(m, files...); err != nil {
			t.Fatal(err)
		}
	}
	var was unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	free, err := unix.Dup(int(r.Fd())) // room for one
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(free)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free) + 1, Max: was.Max}); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &was)
	for i := range 4 {
		if i == 2 {
			if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &was); err != nil {
				t.Fatal(err)
			}
		}
		m, files, err := to.Receive()
		closeAll(files)
		if err != nil || m.ID != uint64(i+1) {
			t.Fatalf("message %d: %+v, %v", i+1, m, err)
		}
		if lost := m.Error != nil; lost != (i == 1) || !lost && len(files) != 2*(i%2) {
			t.Errorf("message %d: %+v, %d files", i+1, m, len(files))
		}
		if i == 1 && !errdefs.IsResourceExhausted(m.Error.Err()) {
			t.Errorf("%v", m.Error.Err())
		}
	}
}

func frameOf(m Message) []byte {
	b, _ := json.Marshal(m)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// TestFailure: what an error is survives the wire.
func TestFailure(t *testing.T) {
	for _, class := range classes {
		err := fmt.Errorf("start web: %w", &StartError{Code: 127, Err: Classed(class.err, errors.New("no such thing"))})
		b, _ := json.Marshal(Fail(err))
		var f Failure
		if e := json.Unmarshal(b, &f); e != nil {
			t.Fatal(e)
		}
		got := f.Err()
		var s *StartError
		if !errors.Is(got, class.err) || got.Error() != "start web: no such thing" || !errors.As(got, &s) || s.Code != 127 {
			t.Errorf("%s: %v %+v", class.name, got, s)
		}
	}
	if err := Fail(errors.New("plain")).Err(); errdefs.IsNotFound(err) || err.Error() != "plain" {
		t.Error(err)
	}
}
