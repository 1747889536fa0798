package recorded

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Compare tells in what an answered scene differs from the recorded one, a
// line for each difference:
//
//	scene: exchange: place: what was recorded => what came
func Compare(want, got *Scene) []string {
	var all []string
	for i, x := range want.Exchanges {
		y := got.Exchanges[i]
		for _, d := range compareAnswers(x.Answer, y.Answer) {
			all = append(all, want.Name+": "+x.Key()+": "+d)
		}
	}
	for _, d := range compareLines(want.Events, got.Events) {
		all = append(all, want.Name+": events: "+d)
	}
	return all
}

func compareAnswers(want, got Answer) []string {
	wantStatus, wantType, _ := strings.Cut(want.Status, " ")
	gotStatus, gotType, _ := strings.Cut(got.Status, " ")
	if wantStatus != gotStatus {
		// The rest of another answer is another, too.
		return []string{fmt.Sprintf("status: %s => %s %s", wantStatus+said(want), gotStatus, strings.TrimSpace(said(got)))}
	}
	var all []string
	if wantType != gotType {
		all = append(all, fmt.Sprintf("type: %s => %s", wantType, gotType))
	}
	for _, d := range compareLines(want.Header, got.Header) {
		// Docker leaves some headers out of some answers; more are no harm.
		if !strings.HasPrefix(d, "missing: no ") {
			all = append(all, "header: "+d)
		}
	}
	w, wantErr := readValues([]byte(strings.Join(want.Body, "\n")))
	g, gotErr := readValues([]byte(strings.Join(got.Body, "\n")))
	switch {
	case wantErr != nil || gotErr != nil:
		for _, d := range compareLines(want.Body, got.Body) {
			all = append(all, "body: "+d)
		}
	case len(w) != len(g) && (len(w) > 1 || len(g) > 1):
		for _, d := range compareLines(want.Body, got.Body) {
			all = append(all, "body: "+d)
		}
	default:
		for i := range max(len(w), len(g)) {
			place := "body"
			if len(w) > 1 {
				place += "(" + strconv.Itoa(i) + ")"
			}
			all = append(all, compareValues(place, at(w, i), at(g, i))...)
		}
	}
	return all
}

// said is the text of an error.
func said(a Answer) string {
	var e struct{ Message string }
	if json.Unmarshal([]byte(strings.Join(a.Body, "\n")), &e) != nil || e.Message == "" {
		return ""
	}
	return " " + strconv.Quote(e.Message)
}

// absent stands for a value that is not there.
type absent struct{}

func at(list []any, i int) any {
	if i < len(list) {
		return list[i]
	}
	return absent{}
}

func compareValues(place string, want, got any) []string {
	var all []string
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			break
		}
		for _, k := range sortedKeys(w) {
			if _, ok := g[k]; !ok {
				all = append(all, place+"."+k+": missing: "+brief(w[k]))
				continue
			}
			all = append(all, compareValues(place+"."+k, w[k], g[k])...)
		}
		for _, k := range sortedKeys(g) {
			if _, ok := w[k]; !ok {
				all = append(all, place+"."+k+": extra: "+brief(g[k]))
			}
		}
		return all
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			break
		}
		for i := range w {
			all = append(all, compareValues(place+"["+strconv.Itoa(i)+"]", w[i], g[i])...)
		}
		return all
	case string:
		if g, ok := got.(string); ok && strings.HasSuffix(strings.ToLower(place), ".message") && saysMore(w, g) {
			return nil
		}
	}
	if oneLine(want) == oneLine(got) {
		return nil
	}
	return []string{place + ": " + brief(want) + " => " + brief(got)}
}

// saysMore reports whether a message is another one, with three liberties. Its
// sentences may begin with small letters, as those of newer Docker do; it may
// call a container by its name, where Docker 20.10 gives the id; and it may go
// on where Docker stops and say what to do.
func saysMore(docker, gantry string) bool {
	plain := func(text string) string { return strings.ToLower(givenName.ReplaceAllString(text, "$1")) }
	rest, ok := strings.CutPrefix(plain(gantry), strings.TrimRight(plain(docker), " \n"))
	return ok && (rest == "" || strings.ContainsRune(".,:;( ", rune(rest[0])))
}

// givenName is an id that a scene has given a name, which is its container's.
var givenName = regexp.MustCompile(`\{(\w+)\}`)

func brief(v any) string {
	if _, ok := v.(absent); ok {
		return "nothing"
	}
	line := oneLine(v)
	if len(line) > 200 {
		line = line[:200] + "..."
	}
	return line
}

// compareLines is what is to be taken out of and put into one list to make the
// other.
func compareLines(want, got []string) []string {
	// longest[i][j] is the length of the longest list that want[i:] and
	// got[j:] have in common.
	longest := make([][]int, len(want)+1)
	for i := range longest {
		longest[i] = make([]int, len(got)+1)
	}
	for i := len(want) - 1; i >= 0; i-- {
		for j := len(got) - 1; j >= 0; j-- {
			if want[i] == got[j] {
				longest[i][j] = longest[i+1][j+1] + 1
			} else {
				longest[i][j] = max(longest[i+1][j], longest[i][j+1])
			}
		}
	}
	var all []string
	for i, j := 0, 0; i < len(want) || j < len(got); {
		switch {
		case i < len(want) && j < len(got) && want[i] == got[j]:
			i, j = i+1, j+1
		case j == len(got) || i < len(want) && longest[i+1][j] >= longest[i][j+1]:
			all = append(all, "missing: "+want[i])
			i++
		default:
			all = append(all, "extra: "+got[j])
			j++
		}
	}
	return all
}

// Accepted are the differences that have a reason.
type Accepted struct {
	patterns []string
	used     map[string]int
}

// ReadAccepted reads a file of reasons, each with the differences it explains
// below it. A star stands for any text. What differs alike in many answers is
// listed once.
func ReadAccepted(path string) (*Accepted, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	a := &Accepted{used: map[string]int{}}
	reason := false
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case line == "":
			reason = false
		case strings.HasPrefix(line, "# "):
			reason = true
		case !reason:
			return nil, fmt.Errorf("%s:%d: a difference without a reason above it", filepath.Base(path), i+1)
		case slices.Contains(a.patterns, line):
			return nil, fmt.Errorf("%s:%d: a difference listed twice", filepath.Base(path), i+1)
		default:
			a.patterns = append(a.patterns, line)
		}
	}
	return a, nil
}

// Explain reports whether a difference is listed.
func (a *Accepted) Explain(difference string) bool {
	found := false
	for _, p := range a.patterns {
		if p == difference || matches(p, difference) {
			a.used[p]++
			found = true
		}
	}
	return found
}

// Unused are the listed differences that are none any more.
func (a *Accepted) Unused() (all []string) {
	for _, p := range a.patterns {
		if a.used[p] == 0 {
			all = append(all, p)
		}
	}
	return all
}

// matches knows no wildcard but the star, which stands for any text.
func matches(pattern, text string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == text
	}
	first, last := parts[0], parts[len(parts)-1]
	if !strings.HasPrefix(text, first) || len(text) < len(first)+len(last) || !strings.HasSuffix(text, last) {
		return false
	}
	text = text[len(first) : len(text)-len(last)]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(text, p)
		if i < 0 {
			return false
		}
		text = text[i+len(p):]
	}
	return true
}
