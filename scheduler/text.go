package scheduler

import (
	"fmt"
	"strings"
)

// Text is the plan for people: steps that do the same to the replicas of a
// service, for the same reason, are one line. That old containers leave is part
// of their replacement, and not said unless data goes with them.
//
//	network shop_back: does not exist → create
//	web: environment.LOG_LEVEL "info" → "debug" → replace 3 containers, start-first (shop-web-1, shop-web-2, shop-web-3)
//	db: deploy.resources.limits.memory "512m" → "1g" → update shop-db-1 in place
//	5 steps: 1 create, 3 replace, 1 update in place
func (p Plan) Text() string {
	var b strings.Builder
	if p.Empty() {
		b.WriteString("nothing to do\n")
	}
	groups, order := map[lineKey]*line{}, []*line{}
	count, verbs, told := map[string]int{}, []string{}, 0
	for _, s := range p.Steps {
		w := s.Do.What()
		if w.Verb == "retire" && s.Destroys == "" {
			continue
		}
		told++
		k := lineKey{whose: w.Service, verb: verbOf(w), why: s.Why, how: s.how(), optional: s.Optional}
		if w.Kind != "container" {
			k.name = w.Kind + " " + w.Name
		}
		if s.Destroys != "" {
			k.name += w.Name // each is a line: this is what one must see
		}
		l := groups[k]
		if l == nil {
			l = &line{lineKey: k, kind: w.Kind, destroys: s.Destroys, text: s.Do.String()}
			groups[k] = l
			order = append(order, l)
		}
		l.names = append(l.names, w.Name)
		if count[k.verb]++; count[k.verb] == 1 {
			verbs = append(verbs, k.verb)
		}
	}
	for _, l := range order {
		b.WriteString(l.String())
		b.WriteByte('\n')
	}
	if told > 1 {
		for i, v := range verbs {
			verbs[i] = fmt.Sprint(count[v], " ", v)
		}
		fmt.Fprintf(&b, "%d steps: %s\n", told, strings.Join(verbs, ", "))
	}
	for _, n := range p.Notes {
		fmt.Fprintf(&b, "note: %s\n", n)
	}
	return b.String()
}

// lineKey is what the steps of a line have in common.
type lineKey struct {
	whose, name    string // service, or kind and name
	verb, why, how string
	optional       bool
}

type line struct {
	lineKey
	kind, text string
	names      []string
	destroys   string
}

// how is what an action says besides what it does, and to whom.
func (s Step) how() string {
	w := s.Do.What()
	rest, ok := strings.CutPrefix(s.Do.String(), containerText(w))
	if !ok || w.Kind != "container" {
		return ""
	}
	return strings.TrimSpace(rest)
}

func verbOf(w What) string {
	if w.Verb == "update" {
		return "update in place"
	}
	return w.Verb
}

func (l *line) String() string {
	var b strings.Builder
	switch l.kind {
	case "service": // it waits
		fmt.Fprintf(&b, "%s: %s (%s)", l.whose, strings.Replace(l.text, l.verb+" "+l.whose, l.verb, 1), l.why)
		if n := len(l.names); n > 1 {
			fmt.Fprintf(&b, ", %d times", n)
		}
	case "container":
		fmt.Fprintf(&b, "%s: %s → %s", l.whose, l.why, l.containers())
	default:
		fmt.Fprintf(&b, "%s %s: %s → %s", l.kind, l.names[0], l.why, l.verb)
	}
	if l.optional {
		b.WriteString(" (may fail)")
	}
	if l.destroys != "" {
		b.WriteString(", DESTROYS " + l.destroys)
	}
	return b.String()
}

// containers are what is done to which containers, and how.
func (l *line) containers() string {
	const most = 4
	verb, how, list := l.verb, l.how, ""
	if verb == "update in place" {
		verb, how = "update", strings.TrimSpace("in place "+how)
	} else if how != "" {
		how = ", " + how
	}
	object := l.names[0]
	if n := len(l.names); n > 1 {
		object = fmt.Sprintf("%d containers", n)
		if list = " (" + strings.Join(l.names, ", ") + ")"; n > most {
			list = fmt.Sprintf(" (%s … %s)", l.names[0], l.names[n-1])
		}
	}
	if how != "" && how[0] != ',' {
		how = " " + how
	}
	return verb + " " + object + how + list
}
