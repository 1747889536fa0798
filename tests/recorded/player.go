package recorded

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Player plays scenes to a daemon.
type Player struct {
	Socket  string
	Busybox string // archive of the image every scene begins with
	Root    string // the daemon's directory, which answers may name

	// Rest is how long the daemon is left alone at the end of a scene, for it
	// to tell of what has happened behind its answers.
	Rest time.Duration
}

// patience is how long an answer may take.
const patience = 30 * time.Second

// version is the one that is spoken between scenes.
const version = "/v1.41"

var apiVersion = regexp.MustCompile(`^/v[0-9.]+/`)

// Play has a scene take place. The result is a copy with this daemon's answers.
func (p *Player) Play(ctx context.Context, s *Scene) (*Scene, error) {
	if err := p.prepare(ctx); err != nil {
		return nil, fmt.Errorf("%s: prepare: %w", s.Name, err)
	}
	out := &Scene{Name: s.Name, Intro: s.Intro}
	shape := &shaper{root: p.Root}
	for _, x := range s.Exchanges {
		shape.said += apiVersion.ReplaceAllString(x.Target, "") + "\n" + strings.Join(x.Body, "\n") + "\n"
	}
	if plain, err := url.QueryUnescape(shape.said); err == nil {
		shape.said += plain
	}
	events, err := p.listen(ctx, time.Now())
	if err != nil {
		return nil, fmt.Errorf("%s: listen to events: %w", s.Name, err)
	}
	defer events.close()

	// An answer in the background waits in its socket.
	var background []*talk
	for _, x := range s.Exchanges {
		if title, ok := x.directive("join"); ok {
			i := slices.IndexFunc(background, func(t *talk) bool { return t.x.Key() == title })
			if i < 0 {
				return nil, fmt.Errorf("%s: %s: no exchange %q is in the background", s.Name, x.Key(), title)
			}
			if err := background[i].finish(); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", s.Name, title, err)
			}
			background = slices.Delete(background, i, i+1)
		}
		again := *x
		out.Exchanges = append(out.Exchanges, &again)
		t, err := p.begin(ctx, &again, shape)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", s.Name, x.Key(), err)
		}
		defer t.close()
		if _, ok := x.directive("background"); ok {
			background = append(background, t)
			continue
		}
		if err := t.finish(); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", s.Name, x.Key(), err)
		}
	}
	for _, t := range background {
		if err := t.finish(); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", s.Name, t.x.Key(), err)
		}
	}
	if out.Events, err = p.collect(ctx, events, shape); err != nil {
		return nil, fmt.Errorf("%s: events: %w", s.Name, err)
	}
	return out, nil
}

// call is a request between scenes.
func (p *Player) call(ctx context.Context, method, target string, body []byte) ([]byte, error) {
	x := &Exchange{Method: method, Target: version + target}
	t, err := p.open(ctx, x, body)
	if err != nil {
		return nil, err
	}
	defer t.close()
	if err := t.read(); err != nil {
		return nil, err
	}
	if t.answer.StatusCode >= 300 {
		return nil, fmt.Errorf("%s %s: %s: %s", method, target, t.answer.Status, t.came.Bytes())
	}
	return t.came.Bytes(), nil
}

// prepare takes away what an earlier scene has made, and sees that the image
// is there.
func (p *Player) prepare(ctx context.Context) error {
	found, err := p.clear(ctx)
	if found || err != nil {
		return err
	}
	body, err := archiveBody("busybox", p.Busybox)
	if err != nil {
		return err
	}
	answer, err := p.call(ctx, http.MethodPost, "/images/create?fromSrc=-&repo=busybox&tag=latest&changes="+url.QueryEscape(`CMD ["sh"]`), body)
	if err == nil && bytes.Contains(answer, []byte(`"error"`)) {
		err = errors.New(string(answer))
	}
	return err
}

// Clear takes away what the scenes have made.
func (p *Player) Clear(ctx context.Context) error {
	_, err := p.clear(ctx)
	return err
}

// clear leaves nothing but the image; found tells whether it is there.
func (p *Player) clear(ctx context.Context) (found bool, err error) {
	var errs []error
	remove := func(list, one, suffix string, names func(text []byte) []string) {
		text, err := p.call(ctx, http.MethodGet, list, nil)
		if err != nil {
			errs = append(errs, err)
			return
		}
		for _, n := range names(text) {
			if _, err := p.call(ctx, http.MethodDelete, one+n+suffix, nil); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for _, id := range p.containers(ctx, "?all=1") {
		if _, err := p.call(ctx, http.MethodDelete, "/containers/"+id+"?force=1&v=1", nil); err != nil {
			errs = append(errs, err)
		}
	}
	remove("/networks", "/networks/", "", func(text []byte) (all []string) {
		var list []struct{ ID, Name string }
		_ = json.Unmarshal(text, &list)
		for _, n := range list {
			if n.Name != "bridge" && n.Name != "host" && n.Name != "none" {
				all = append(all, n.ID)
			}
		}
		return all
	})
	remove("/volumes", "/volumes/", "?force=1", func(text []byte) (all []string) {
		var list struct{ Volumes []struct{ Name string } }
		_ = json.Unmarshal(text, &list)
		for _, v := range list.Volumes {
			all = append(all, v.Name)
		}
		return all
	})
	remove("/images/json", "/images/", "?force=1", func(text []byte) (all []string) {
		var list []struct {
			ID       string
			RepoTags []string
		}
		_ = json.Unmarshal(text, &list)
		for _, i := range list {
			if len(i.RepoTags) == 1 && i.RepoTags[0] == "busybox:latest" {
				found = true
				continue
			}
			all = append(all, i.ID)
		}
		return all
	})
	return found, errors.Join(errs...)
}

// containers are the ids of those that a query lists.
func (p *Player) containers(ctx context.Context, query string) (all []string) {
	text, err := p.call(ctx, http.MethodGet, "/containers/json"+query, nil)
	var list []struct{ ID string }
	if err == nil && json.Unmarshal(text, &list) == nil {
		for _, c := range list {
			all = append(all, c.ID)
		}
	}
	return all
}

// last is a volume whose making is the last event of a scene.
const last = "end-of-scene"

// listen opens the stream of events.
func (p *Player) listen(ctx context.Context, since time.Time) (*talk, error) {
	x := &Exchange{Method: http.MethodGet, Target: fmt.Sprintf("%s/events?since=%d.%09d", version, since.Unix(), since.Nanosecond())}
	return p.open(ctx, x, nil)
}

// collect reads the events up to one that it causes itself.
func (p *Player) collect(ctx context.Context, events *talk, shape *shaper) ([]string, error) {
	// Who is told that a container has ended is told after its events.
	for _, id := range p.containers(ctx, `?all=1&filters={"status":["exited"]}`) {
		if _, err := p.call(ctx, http.MethodPost, "/containers/"+id+"/wait", nil); err != nil {
			return nil, err
		}
	}
	time.Sleep(p.Rest)
	if _, err := p.call(ctx, http.MethodPost, "/volumes/create", []byte(`{"Name":"`+last+`"}`)); err != nil {
		return nil, err
	}
	_ = events.conn.SetDeadline(time.Now().Add(patience))
	var all []string
	for d := json.NewDecoder(events.from); ; {
		var e event
		if err := d.Decode(&e); err != nil {
			return nil, err
		}
		if e.Type == "volume" && e.Actor.ID == last {
			return ordered(all), nil
		}
		// A health check repeats itself as often as the clock wants.
		line := shape.event(e)
		if strings.HasPrefix(e.Action, "exec_") && slices.Contains(all, line) {
			continue
		}
		all = append(all, line)
	}
}

// ordered sorts events of one kind that follow each other: of several volumes
// or networks of a container, and of execs that end together, chance says which
// comes first.
func ordered(all []string) []string {
	kind := func(line string) string {
		noun, rest, _ := strings.Cut(line, " ")
		verb, _, _ := strings.Cut(rest, " ")
		return noun + " " + verb
	}
	for i := 0; i < len(all); {
		j := i + 1
		for j < len(all) && kind(all[j]) == kind(all[i]) {
			j++
		}
		if k := kind(all[i]); !strings.HasPrefix(k, "container ") || k == "container exec_die" {
			slices.Sort(all[i:j])
		}
		i = j
	}
	return all
}
