package compose

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// locator finds the line where something is written. compose-go's model has
// no lines, so the files are parsed once more, and only when there is an error
// to report.
type locator struct {
	workDir, projectDir string
	sources             []source // in the order they were merged
	docs                []doc
	parsed              bool
}

type source struct {
	path    string
	content []byte // nil: read it
}

type doc struct {
	path string
	root *yaml.Node
}

func (in *input) locator() *locator {
	l := &locator{workDir: in.workDir, projectDir: in.projectDir}
	for _, f := range in.files {
		l.sources = append(l.sources, source{f.Filename, f.Content})
	}
	return l
}

// projectLocator is for a project whose input is gone.
func projectLocator(p *Project) *locator {
	l := &locator{workDir: p.Environment["PWD"], projectDir: p.WorkingDir}
	for _, f := range p.ComposeFiles {
		if f != "-" {
			l.sources = append(l.sources, source{path: f})
		}
	}
	return l
}

func (l *locator) parse() {
	if l.parsed {
		return
	}
	l.parsed = true
	seen := map[string]bool{}
	for i := len(l.sources) - 1; i >= 0; i-- {
		l.parseFile(l.sources[i], l.projectDir, seen)
	}
}

// parseFile parses a file and those it includes or extends. Files that cannot
// be read or parsed are passed over: their lines stay unknown.
func (l *locator) parseFile(s source, base string, seen map[string]bool) {
	if seen[s.path] || len(seen) > 100 {
		return
	}
	seen[s.path] = true
	if s.content == nil {
		info, err := os.Stat(s.path)
		if err != nil || !info.Mode().IsRegular() {
			return
		}
		if s.content, err = os.ReadFile(s.path); err != nil {
			return
		}
	}
	var root yaml.Node
	if yaml.Unmarshal(s.content, &root) != nil || len(root.Content) == 0 {
		return
	}
	l.docs = append(l.docs, doc{s.path, root.Content[0]})
	for _, path := range referenced(root.Content[0]) {
		if isRemote(path) {
			continue
		}
		if !filepath.IsAbs(path) {
			path = filepath.Join(base, path)
		}
		l.parseFile(source{path: path}, filepath.Dir(path), seen)
	}
}

// referenced lists the files a document includes and extends.
func referenced(root *yaml.Node) []string {
	var paths []string
	add := func(n *yaml.Node) {
		for _, e := range listOf(n) {
			if e.Kind == yaml.ScalarNode {
				paths = append(paths, e.Value)
			}
		}
	}
	if inc := child(root, "include"); inc != nil {
		for _, e := range listOf(inc) {
			add(e)
			add(child(e, "path"))
		}
	}
	if services := child(root, "services"); services != nil && services.Kind == yaml.MappingNode {
		for i := 1; i < len(services.Content); i += 2 {
			add(child(child(services.Content[i], "extends"), "file"))
		}
	}
	return paths
}

func listOf(n *yaml.Node) []*yaml.Node {
	switch {
	case n == nil:
		return nil
	case n.Kind == yaml.SequenceNode:
		return n.Content
	}
	return []*yaml.Node{n}
}

// child is the value of a key, through aliases and merge keys.
func child(n *yaml.Node, key string) *yaml.Node {
	_, v := entry(n, key, 0)
	return v
}

// entry is the node of a key (or of an item of a list) and its value.
func entry(n *yaml.Node, key string, depth int) (at, value *yaml.Node) {
	if n == nil || depth > 20 {
		return nil, nil
	}
	switch n.Kind {
	case yaml.AliasNode:
		return entry(n.Alias, key, depth+1)
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == key {
				return n.Content[i], n.Content[i+1]
			}
		}
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Tag == "!!merge" {
				for _, m := range listOf(n.Content[i+1]) {
					if at, value := entry(m, key, depth+1); at != nil {
						return at, value
					}
				}
			}
		}
	case yaml.SequenceNode:
		if i, err := strconv.Atoi(key); err == nil && i >= 0 && i < len(n.Content) {
			return n.Content[i], n.Content[i]
		}
		for _, item := range n.Content {
			if item.Kind == yaml.ScalarNode && (item.Value == key || strings.HasPrefix(item.Value, key+":") || strings.HasPrefix(item.Value, key+"=")) {
				return item, item
			}
			for _, field := range []string{"source", "path", "service"} {
				if v := child(item, field); v != nil && v.Value == key {
					return v, v
				}
			}
		}
	}
	return nil, nil
}

// find is the place of a path of keys, or of the longest part of it that is
// written anywhere. A last element "~text" stands for the first scalar below
// that contains the text.
func (l *locator) find(path ...string) (file string, line int) {
	l.parse()
	best := 0
	for _, d := range l.docs {
		n, depth, at := d.root, 0, (*yaml.Node)(nil)
		for i := 0; i < len(path); i++ {
			key := path[i]
			if text, ok := strings.CutPrefix(key, "~"); ok {
				if hit := containing(n, text, 0); hit != nil {
					at, depth = hit, depth+1
				}
				break
			}
			if key == "[]" {
				continue
			}
			k, v := entry(n, key, 0)
			for k == nil && i+1 < len(path) { // a name with a dot in it
				i++
				key += "." + path[i]
				k, v = entry(n, key, 0)
			}
			if k == nil {
				break
			}
			n, at, depth = v, k, depth+1
		}
		if depth > best {
			best, file, line = depth, d.path, at.Line
		}
	}
	return file, line
}

func containing(n *yaml.Node, text string, depth int) *yaml.Node {
	if n == nil || depth > 50 {
		return nil
	}
	if n.Kind == yaml.ScalarNode && strings.Contains(n.Value, text) {
		return n
	}
	for _, c := range n.Content {
		if hit := containing(c, text, depth+1); hit != nil {
			return hit
		}
	}
	return nil
}

// at gives an error the place of a path, unless it has one.
func (l *locator) at(e *Error, path ...string) *Error {
	if e.File == "" {
		if file, line := l.find(path...); file != "" {
			e.File, e.Line = showPath(l.workDir, file), line
		}
	}
	return e
}
