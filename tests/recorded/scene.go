// Package recorded holds conversations with Docker's own daemon, and has
// gantry take part in the same ones.
//
// A scene is a text file in testdata: requests, and below each what dockerd
// answered. `go run ./tests/recorded/record` sends the requests to a dockerd
// of its own and writes the answers into the files; the test sends them to a
// gantryd and compares. Whatever differs is listed in
// testdata/differences.txt with a reason, or fails.
//
// Answers are kept in a form that two daemons, two machines and two days have
// in common: shape.go says what is written instead of an id or a time.
package recorded

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Scene is a file of exchanges that build on each other. A scene begins with
// an empty daemon that has the image busybox.
//
// A block of lines, up to the next empty one, is an exchange:
//
//	# Why this is asked.
//	== its title, where method and target do not tell it from others
//	> POST /v1.41/containers/create?name=one
//	> Content-Type: text/plain
//	>> {"Image":"busybox"}
//	@ a directive, see Exchange
//	< 201 application/json
//	<< {"Id":"{one}","Warnings":[]}
//
// What is recorded stands behind "<" and "<<". The last block holds the events
// of the whole scene, one behind each "**".
type Scene struct {
	Name      string
	Intro     []string // comments before the first exchange
	Exchanges []*Exchange
	Events    []string
}

// Exchange is a request and its answer.
//
// Its directives are
//
//	let NAME [KEY]   remember the answer's Id (or KEY) for {NAME} and {NAME:12}
//	body WHAT        send an archive: busybox, image, rootfs or file (see bodies.go)
//	background       go on without waiting for the end of the answer; it is
//	                 collected at the end of the scene
//	join TITLE       first collect an exchange of the background
//	settle NAME STATE  first wait until a container is in a state
//	shape            keep types only, no values; of what is not JSON, nothing
//	sort             order the elements of a list: the daemon promises no order
//	frames           the answer is a multiplexed stream whatever its type says
//	streams          as frames, but each stream by itself: their order is chance
//	from TEXT        leave out what comes before a text
//	send TEXT, expect TEXT, eof, hangup
//	                 what the client does, in this order, once it has the
//	                 header; without hangup it reads to the end
type Exchange struct {
	Comments   []string
	Title      string
	Method     string
	Target     string
	Header     []string
	Body       []string
	Directives []string

	Answer Answer
}

// Answer is what is kept of an answer.
type Answer struct {
	Status string // and the type of the content
	Header []string
	Body   []string
}

// Key names an exchange within its scene.
func (x *Exchange) Key() string {
	if x.Title != "" {
		return x.Title
	}
	return x.Method + " " + x.Target
}

// directive returns what stands behind a directive, if it is there.
func (x *Exchange) directive(name string) (rest string, ok bool) {
	for _, d := range x.Directives {
		verb, rest, _ := strings.Cut(d, " ")
		if verb == name {
			return rest, true
		}
	}
	return "", false
}

// Scenes reads the scenes of a directory, in order of their names.
func Scenes(dir string) ([]*Scene, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.scene"))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no scenes in %s: %w", dir, fs.ErrNotExist)
	}
	slices.Sort(files)
	var all []*Scene
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			return nil, err
		}
		s, err := Parse(strings.TrimSuffix(filepath.Base(f), ".scene"), string(text))
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// Parse reads a scene.
func Parse(name, text string) (*Scene, error) {
	s := &Scene{Name: name}
	seen := map[string]int{}
	line := 0
	for block := range strings.SplitSeq(text, "\n\n") {
		x := &Exchange{}
		events := false
		for l := range strings.Lines(block) {
			line++
			l = strings.TrimSuffix(l, "\n")
			mark, rest, _ := strings.Cut(l, " ")
			switch mark {
			case "":
				if rest != "" {
					return nil, fmt.Errorf("%s:%d: a line begins with a space", name, line)
				}
			case "#":
				x.Comments = append(x.Comments, rest)
			case "==":
				x.Title = rest
			case ">":
				if x.Method == "" {
					x.Method, x.Target, _ = strings.Cut(rest, " ")
				} else {
					x.Header = append(x.Header, rest)
				}
			case ">>":
				x.Body = append(x.Body, rest)
			case "@":
				x.Directives = append(x.Directives, rest)
			case "<":
				if x.Answer.Status == "" {
					x.Answer.Status = rest
				} else {
					x.Answer.Header = append(x.Answer.Header, rest)
				}
			case "<<":
				x.Answer.Body = append(x.Answer.Body, rest)
			case "**":
				events = true
				s.Events = append(s.Events, rest)
			default:
				return nil, fmt.Errorf("%s:%d: %q: a line begins with #, ==, >, >>, @, <, << or **", name, line, l)
			}
		}
		line++
		switch {
		case x.Method != "":
			if seen[x.Key()]++; seen[x.Key()] > 1 {
				if x.Title != "" {
					return nil, fmt.Errorf("%s:%d: there are two exchanges %q", name, line, x.Title)
				}
				x.Title = fmt.Sprintf("%s (%d)", x.Key(), seen[x.Key()])
			}
			s.Exchanges = append(s.Exchanges, x)
		case len(s.Exchanges) == 0 && !events:
			s.Intro = append(s.Intro, x.Comments...)
		case !events && len(x.Comments) > 0:
			return nil, fmt.Errorf("%s:%d: a comment stands by itself", name, line)
		}
	}
	return s, nil
}

// String is the text of a scene's file.
func (s *Scene) String() string {
	var b strings.Builder
	put := func(mark string, lines ...string) {
		for _, l := range lines {
			b.WriteString(strings.TrimSuffix(mark+" "+l, " "))
			b.WriteByte('\n')
		}
	}
	if len(s.Intro) > 0 {
		put("#", s.Intro...)
		b.WriteByte('\n')
	}
	for _, x := range s.Exchanges {
		put("#", x.Comments...)
		if x.Title != "" && !strings.HasPrefix(x.Title, x.Method+" "+x.Target+" (") {
			put("==", x.Title)
		}
		put(">", x.Method+" "+x.Target)
		put(">", x.Header...)
		put(">>", x.Body...)
		put("@", x.Directives...)
		put("<", x.Answer.Status)
		put("<", x.Answer.Header...)
		put("<<", x.Answer.Body...)
		b.WriteByte('\n')
	}
	put("**", s.Events...)
	return strings.TrimRight(b.String(), "\n") + "\n"
}
