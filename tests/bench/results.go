package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Columns of the table. Bare is the floor: libcontainer alone for containers,
// the host's loopback for requests, tar for what is unpacked.
const (
	gantryColumn  = "gantry"
	bareColumn    = "bare"
	crunColumn    = "crun"
	dockerColumn  = "docker"
	buildahColumn = "buildah"
)

var columns = []string{gantryColumn, bareColumn, crunColumn, dockerColumn, buildahColumn}

// Units samples are in.
const (
	millis = "ms"
	micros = "µs"
	mega   = "MB" // 10⁶ bytes
	perSec = "/s"
	times  = "×"
	share  = "%" // of one processor
)

// row is one thing that is measured.
type row struct {
	name  string
	unit  string
	bound bound // what gantry wants to reach
}

// bound is a target for gantry's median; the zero bound is none.
type bound struct {
	value   float64
	atLeast bool // else at most
	overRow *row // value comes on top of the bare median of that row
	ofBare  bool // value is a multiple of the row's own bare median
	ofRow   *row // value is a multiple of gantry's median of that row
}

func atMost(v float64) bound { return bound{value: v} }

// The rows in the order of the table.
var (
	up1        = &row{"up -d, 1 service", millis, atMost(90)}
	up10       = &row{"up -d, 10 services", millis, bound{}}
	up50       = &row{"up -d, 50 replicas", millis, atMost(1800)}
	upChain    = &row{"up -d, chain of 10 healthy, interval 1s", millis, atMost(1200)}
	noop1      = &row{"up -d again, 1 service", millis, bound{}}
	noop50     = &row{"up -d again, 50 replicas", millis, atMost(60)}
	ps1        = &row{"ps, 1 service", millis, atMost(25)}
	ps50       = &row{"ps, 50 replicas", millis, atMost(25)}
	execCLI    = &row{"exec -T true", millis, atMost(35)}
	execAPI    = &row{"exec true, API", millis, bound{}}
	down1      = &row{"down, 1 service", millis, bound{}}
	down10     = &row{"down, 10 services", millis, bound{}}
	down50     = &row{"down, 50 replicas", millis, atMost(800)}
	downChain  = &row{"down, chain of 10", millis, bound{}}
	up100      = &row{"up -d, 100 services", millis, bound{}}
	noop100    = &row{"up -d again, 100 services", millis, atMost(120)}
	down100    = &row{"down, 100 services", millis, bound{}}
	scale100   = &row{"scale from 1 to 100", millis, atMost(3500)}
	rss100     = &row{"memory, 100 containers, RSS", mega, atMost(130)}
	pss100     = &row{"memory, 100 containers, PSS", mega, bound{}}
	probesExec = &row{"CPU for 100 containers probed every 10 s", share, atMost(2)}
	probesTCP  = &row{"  by tcp", share, atMost(2)}
	probesHTTP = &row{"  by http", share, atMost(2)}
	runs       = &row{"one container until it runs", millis, bound{}}
	gone       = &row{"one container until it is gone", millis, bound{}}
	restart    = &row{"crash (kill -9) until it runs again", millis, bound{value: 15, overRow: runs}}
	rss0       = &row{"memory, no containers, RSS", mega, atMost(60)}
	pss0       = &row{"memory, no containers, PSS", mega, bound{}}
	rss50      = &row{"memory, 50 containers, RSS", mega, bound{}}
	pss50      = &row{"memory, 50 containers, PSS", mega, bound{}}
	rssEach    = &row{"memory per container, RSS", mega, atMost(0.7)}
	kept       = &row{"requests/s, kept connections", perSec, bound{}}
	keptShare  = &row{"  of loopback's", times, bound{value: 0.8, atLeast: true}}
	keptP50    = &row{"  latency, median", micros, bound{}}
	keptP99    = &row{"  latency, p99", micros, bound{}}
	keptDirect = &row{"  straight to the container", perSec, bound{}}
	each       = &row{"requests/s, a connection each", perSec, bound{}}
	eachShare  = &row{"  of loopback's", times, bound{}}
	eachP50    = &row{"  latency, median", micros, bound{}}
	eachP99    = &row{"  latency, p99", micros, bound{}}
	eachDirect = &row{"  straight to the container", perSec, bound{}}

	buildCached  = &row{"build, 10 steps, all cached", millis, atMost(150)}
	buildChanged = &row{"build, 10 steps, one file changed: 4 run", millis, bound{}}
	buildOne     = &row{"build, RUN true", millis, bound{}}
	buildTrue    = &row{"build, one more RUN true", millis, atMost(60)}
	buildTen     = &row{"build, ten independent RUN sleep 0.5", millis, bound{}}
	loadLarge    = &row{"load of 170 MB", millis, bound{value: 1.5, ofBare: true}}
	pullLarge    = &row{"pull of the same from loopback", millis, bound{value: 1.5, ofRow: loadLarge}}
	pullAgain    = &row{"pull again, nothing new", millis, atMost(60)}

	rows = []*row{
		up1, up10, up50, upChain, noop1, noop50, ps1, ps50, execCLI, execAPI, down1, down10, down50, downChain,
		up100, noop100, down100, scale100, probesExec, probesTCP, probesHTTP,
		runs, gone, restart, rss0, pss0, rss50, pss50, rssEach, rss100, pss100,
		kept, keptShare, keptP50, keptP99, keptDirect, each, eachShare, eachP50, eachP99, eachDirect,
		buildCached, buildChanged, buildOne, buildTrue, buildTen, loadLarge, pullLarge, pullAgain,
	}
)

// results are all samples, by row and column.
type results struct {
	samples map[*row]map[string][]float64
	notes   map[string][]string // by column: why cells are empty, or to be doubted
}

func newResults() *results {
	return &results{samples: map[*row]map[string][]float64{}, notes: map[string][]string{}}
}

func (r *results) add(w *row, column string, v float64) {
	if r.samples[w] == nil {
		r.samples[w] = map[string][]float64{}
	}
	r.samples[w][column] = append(r.samples[w][column], v)
}

// note says once what a reader of a column must know.
func (r *results) note(column, text string) {
	text = strings.Join(strings.Fields(text), " ")
	if !slices.Contains(r.notes[column], text) {
		r.notes[column] = append(r.notes[column], text)
	}
}

// spread is what a cell shows of its samples.
type spread struct {
	N                int
	Median, P10, P90 float64
}

func spreadOf(samples []float64) spread {
	s := slices.Sorted(slices.Values(samples))
	return spread{len(s), quantile(s, 0.5), quantile(s, 0.1), quantile(s, 0.9)}
}

// quantile of sorted samples, between the two nearest.
func quantile(s []float64, q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	at := q * float64(len(s)-1)
	i := int(at)
	if i+1 >= len(s) {
		return s[len(s)-1]
	}
	return s[i] + (at-float64(i))*(s[i+1]-s[i])
}

func (r *results) spread(w *row, column string) (spread, bool) {
	s := r.samples[w][column]
	return spreadOf(s), len(s) > 0
}

// verdict compares gantry's median with the row's bound.
func (r *results) verdict(w *row) (want string, met, known bool) {
	b := w.bound
	if b == (bound{}) {
		return "", false, false
	}
	limit, sign := b.value, "≤ "
	if b.atLeast {
		sign = "≥ "
	}
	if b.overRow != nil {
		floor, ok := r.spread(b.overRow, bareColumn)
		if !ok {
			return fmt.Sprintf("≤ bare + %s", number(b.value)), false, false
		}
		limit += floor.Median
	}
	of, ofColumn := b.ofRow, gantryColumn
	if b.ofBare {
		of, ofColumn = w, bareColumn
	}
	if of != nil {
		base, ok := r.spread(of, ofColumn)
		if !ok {
			return fmt.Sprintf("≤ %s × %s", number(b.value), ofColumn), false, false
		}
		limit *= base.Median
	}
	s, ok := r.spread(w, gantryColumn)
	met = s.Median <= limit
	if b.atLeast {
		met = s.Median >= limit
	}
	return sign + number(limit), met, ok
}

// number has three significant digits, and no more behind the point than
// anybody could measure.
func number(v float64) string {
	switch a := max(v, -v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// print writes the table: in a cell stand the median, p10–p90 and the number
// of samples.
func (r *results) print(w io.Writer, shown func(*row) bool) {
	table := [][]string{append(append([]string{"", ""}, columns...), "target", "")}
	for _, row := range rows {
		if !shown(row) {
			continue
		}
		line := []string{row.name, row.unit}
		for _, c := range columns {
			cell := "·"
			if s, ok := r.spread(row, c); ok {
				cell = fmt.Sprintf("%s  %s–%s n%d", number(s.Median), number(s.P10), number(s.P90), s.N)
			} else if len(r.notes[c]) > 0 {
				cell = "· see below"
			}
			line = append(line, cell)
		}
		want, met, known := r.verdict(row)
		line = append(line, want)
		switch {
		case !known:
			line = append(line, "")
		case met:
			line = append(line, "met")
		default:
			line = append(line, "MISSED")
		}
		table = append(table, line)
	}
	align(w, table)
	for _, c := range columns {
		for _, n := range r.notes[c] {
			fmt.Fprintf(w, "%s: %s\n", c, n)
		}
	}
}

func align(w io.Writer, table [][]string) {
	width := map[int]int{}
	for _, line := range table {
		for i, cell := range line {
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	for _, line := range table {
		var b strings.Builder
		for i, cell := range line {
			b.WriteString(cell)
			b.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell)+2))
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

// document is the table for machines.
type document struct {
	Date  time.Time
	About map[string]string // versions, machine, load
	Rows  []rowDocument
	Notes map[string][]string
	Parts []part // where the time of one start goes
}

type rowDocument struct {
	Name, Unit string
	Columns    map[string]cellDocument
	Target     string `json:",omitempty"`
	Met        *bool  `json:",omitempty"`
}

type cellDocument struct {
	spread
	Samples []float64
}

func (r *results) writeJSON(w io.Writer, d document, shown func(*row) bool) error {
	d.Notes = r.notes
	heading := ""
	for _, row := range rows {
		name := strings.TrimSpace(row.name)
		if name == row.name {
			heading = name
		} else {
			name = heading + ": " + name
		}
		if !shown(row) {
			continue
		}
		doc := rowDocument{Name: name, Unit: row.unit, Columns: map[string]cellDocument{}}
		for c, samples := range r.samples[row] {
			doc.Columns[c] = cellDocument{spreadOf(samples), samples}
		}
		want, met, known := r.verdict(row)
		if doc.Target = want; known {
			doc.Met = &met
		}
		d.Rows = append(d.Rows, doc)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(d)
}

// missed counts the targets that gantry did not reach.
func (r *results) missed() (n, of int) {
	for _, row := range rows {
		if _, met, known := r.verdict(row); known {
			of++
			if !met {
				n++
			}
		}
	}
	return n, of
}
