package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"time"
)

// mutant is one branch turned round.
type mutant struct {
	id     int // from 1
	file   file
	line   int
	inside string // function
	what   string // the condition
	nth    int    // of the same in this function, from 1

	killer string          // the round that noticed
	hangs  bool            // by its time
	took   []time.Duration // in each round
}

// name is what a mutant is known by, wherever its line has gone.
func (m mutant) name() string {
	text := fmt.Sprintf("%s %s: %s", m.file.name, m.inside, m.what)
	if m.nth > 1 {
		text += fmt.Sprintf(" (%d)", m.nth)
	}
	return text
}

// chooser is what the mutated files call.
const chooser = `package scheduler

import (
	"fmt"
	"os"
	"strconv"
	"sync"
)

var livingMutant = func() int { n, _ := strconv.Atoi(os.Getenv("` + variable + `")); return n }()

var mutantsSeen = struct {
	mu   sync.Mutex
	file string
	ids  map[int]bool
}{file: os.Getenv("` + seen + `"), ids: map[int]bool{}}

func lives(id int) bool {
	if mutantsSeen.file != "" {
		mutantsSeen.mu.Lock()
		defer mutantsSeen.mu.Unlock()
		if !mutantsSeen.ids[id] {
			mutantsSeen.ids[id] = true
			f, err := os.OpenFile(mutantsSeen.file, os.O_WRONLY|os.O_APPEND, 0)
			if err == nil {
				_, err = fmt.Fprintln(f, id)
				f.Close()
			}
			if err != nil {
				panic(err)
			}
		}
	}
	return id == livingMutant
}

func mutant[T ~bool](id int, v T) T { if lives(id) { return !v }; return v }

func mutantCase[T any](id int, v T) (other T) {
	if lives(id) {
		return other
	}
	return v
}
`

// breeder collects the mutants of one file.
type breeder struct {
	set    *token.FileSet
	file   file
	text   []byte
	first  int
	all    []mutant
	edits  []edit
	inside string
	seen   map[string]int
	done   map[ast.Expr]bool
}

type edit struct {
	at    int
	text  string
	close bool
	size  int // of the expression: of two that begin together the larger is outside
}

// mutate returns the mutants of a file, numbered after first, and its text with
// all of them asleep.
func mutate(f file, text []byte, first int) ([]mutant, []byte, error) {
	b := &breeder{set: token.NewFileSet(), file: f, text: text, first: first, seen: map[string]int{}, done: map[ast.Expr]bool{}}
	tree, err := parser.ParseFile(b.set, f.name, text, parser.SkipObjectResolution)
	if err != nil {
		return nil, nil, err
	}
	only, met := strings.Fields(f.only), map[string]bool{}
	for _, d := range tree.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil && (f.only == "" || slices.Contains(only, fn.Name.Name)) {
			b.inside = fn.Name.Name
			met[b.inside] = true
			ast.Inspect(fn.Body, b.visit)
		}
	}
	for _, name := range only {
		if !met[name] {
			return nil, nil, fmt.Errorf("%s has no function %s", f.name, name)
		}
	}
	return b.all, b.apply(), nil
}

func (b *breeder) visit(n ast.Node) bool {
	switch n := n.(type) {
	case *ast.IfStmt:
		b.add(n.Cond, "mutant")
	case *ast.ForStmt:
		b.add(n.Cond, "mutant")
	case *ast.BinaryExpr:
		if n.Op == token.LAND || n.Op == token.LOR {
			if x, ok := n.X.(*ast.BinaryExpr); !ok || x.Op != n.Op { // else it is the chain so far
				b.add(n.X, "mutant")
			}
			b.add(n.Y, "mutant")
		}
	case *ast.SwitchStmt:
		call := "mutant" // its cases are conditions
		if n.Tag != nil {
			call = "mutantCase"
		}
		for _, c := range n.Body.List {
			for _, e := range c.(*ast.CaseClause).List {
				b.add(e, call)
			}
		}
	}
	return true
}

// add makes a mutant of an expression.
func (b *breeder) add(e ast.Expr, call string) {
	if e == nil || b.done[e] {
		return
	}
	b.done[e] = true
	from, to := b.set.Position(e.Pos()), b.set.Position(e.End())
	what := strings.Join(strings.Fields(string(b.text[from.Offset:to.Offset])), " ")
	key := b.inside + ": " + what
	b.seen[key]++
	m := mutant{id: b.first + len(b.all) + 1, file: b.file, line: from.Line, inside: b.inside, what: what, nth: b.seen[key]}
	b.all = append(b.all, m)
	size := to.Offset - from.Offset
	b.edits = append(b.edits,
		edit{at: from.Offset, text: fmt.Sprintf("%s(%d, ", call, m.id), size: size},
		edit{at: to.Offset, text: ")", close: true, size: size})
}

// apply puts the edits into the text. Expressions nest: what is outside opens
// first and closes last.
func (b *breeder) apply() []byte {
	slices.SortStableFunc(b.edits, func(x, y edit) int {
		switch {
		case x.at != y.at:
			return x.at - y.at
		case x.close != y.close:
			if x.close {
				return -1
			}
			return 1
		case x.close:
			return x.size - y.size
		}
		return y.size - x.size
	})
	var out bytes.Buffer
	at := 0
	for _, e := range b.edits {
		out.Write(b.text[at:e.at])
		out.WriteString(e.text)
		at = e.at
	}
	out.Write(b.text[at:])
	return out.Bytes()
}
