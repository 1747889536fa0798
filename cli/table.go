package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"text/template"
	"unicode/utf8"
)

// table lines columns up. A cell is one line; what is not is folded.
type table struct {
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// gap is the space between two columns.
const gap = "   "

func (t *table) write(w io.Writer) error {
	var widths []int
	for _, r := range t.rows {
		for i, c := range r {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, r := range t.rows {
		var line strings.Builder
		for i, c := range r {
			if i > 0 {
				line.WriteString(gap)
			}
			line.WriteString(pad(c, widths[i]))
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// list prints objects in the format that the user asked for. T is a struct
// whose fields a template names and JSON shows.
type list[T any] struct {
	rows []T
	// The columns of the table: a heading and the field below it.
	columns []column
	// quiet is the field printed alone under -q.
	quiet string
	// array prints JSON as one array rather than a line for each object: as
	// docker compose does for the noun at hand.
	array bool
}

type column struct{ head, field string }

// Formats besides templates.
const (
	formatTable = "table"
	formatJSON  = "json"
)

// print writes the list. format is "" or "table", "json", a template for each
// row, or "table TEMPLATE" with a heading above.
func (l list[T]) print(w io.Writer, format string, quiet bool) error {
	switch {
	case quiet && (format == "" || format == formatTable):
		for _, r := range l.rows {
			fmt.Fprintln(w, cell(r, l.quiet))
		}
		return nil
	case format == "" || format == formatTable || format == "pretty":
		return l.table(w)
	case format == formatJSON:
		return l.json(w)
	}
	text, headed := strings.CutPrefix(format, formatTable+" ")
	tmpl, err := parseTemplate(text)
	if err != nil {
		return err
	}
	var t table
	if headed {
		t.add(strings.Split(l.heading(tmpl), "\t")...)
	}
	for _, r := range l.rows {
		line, err := execute(tmpl, r)
		if err != nil {
			return err
		}
		if !headed {
			fmt.Fprintln(w, line)
			continue
		}
		t.add(strings.Split(line, "\t")...)
	}
	return t.write(w)
}

func (l list[T]) table(w io.Writer) error {
	var t table
	head := make([]string, len(l.columns))
	for i, c := range l.columns {
		head[i] = c.head
	}
	t.add(head...)
	for _, r := range l.rows {
		cells := make([]string, len(l.columns))
		for i, c := range l.columns {
			cells[i] = cell(r, c.field)
		}
		t.add(cells...)
	}
	return t.write(w)
}

func (l list[T]) json(w io.Writer) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if l.array {
		rows := l.rows
		if rows == nil {
			rows = []T{}
		}
		return enc.Encode(rows)
	}
	for _, r := range l.rows {
		if err := enc.Encode(r); err != nil {
			return err
		}
	}
	return nil
}

// heading is the template's line for the headings of its fields.
func (l list[T]) heading(tmpl *template.Template) string {
	heads := map[string]string{}
	t := reflect.TypeFor[T]()
	for i := range t.NumField() {
		heads[t.Field(i).Name] = strings.ToUpper(t.Field(i).Name)
	}
	for _, c := range l.columns {
		heads[c.field] = c.head
	}
	line, err := execute(tmpl, heads)
	if err != nil {
		return ""
	}
	return line
}

// cell is a field of a row as text.
func cell(row any, field string) string {
	v := reflect.ValueOf(row).FieldByName(field)
	if !v.IsValid() {
		return ""
	}
	return strings.ReplaceAll(fmt.Sprint(v.Interface()), "\n", " ")
}

// parseTemplate reads a --format template. Tabs may be written \t.
func parseTemplate(text string) (*template.Template, error) {
	text = strings.NewReplacer(`\t`, "\t", `\n`, "\n").Replace(text)
	t, err := template.New("format").Funcs(template.FuncMap{
		"json": func(v any) (string, error) {
			var b bytes.Buffer
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			err := enc.Encode(v)
			return strings.TrimSpace(b.String()), err
		},
		"join":  strings.Join,
		"split": strings.Split,
		"lower": strings.ToLower,
		"upper": strings.ToUpper,
		"title": func(s string) string {
			if s == "" {
				return s
			}
			return strings.ToUpper(s[:1]) + s[1:]
		},
		"pad": func(s string, before, after int) string {
			return strings.Repeat(" ", before) + s + strings.Repeat(" ", after)
		},
		"truncate": func(s string, n int) string { return string([]rune(s)[:min(n, utf8.RuneCountInString(s))]) },
	}).Parse(text)
	if err != nil {
		return nil, fmt.Errorf("--format: %w", err)
	}
	return t, nil
}

func execute(t *template.Template, v any) (string, error) {
	var b strings.Builder
	if err := t.Execute(&b, v); err != nil {
		return "", fmt.Errorf("--format: %w", err)
	}
	return b.String(), nil
}

// inspect prints detailed objects: as an indented JSON array, or each by a
// template.
func (a *app) inspect(format string, objects []any) error {
	if format == "" || format == formatJSON {
		if objects == nil {
			objects = []any{}
		}
		enc := json.NewEncoder(a.out)
		enc.SetEscapeHTML(false)
		enc.SetIndent("", "    ")
		return enc.Encode(objects)
	}
	t, err := parseTemplate(format)
	if err != nil {
		return err
	}
	for _, o := range objects {
		line, err := execute(t, o)
		if err != nil {
			return err
		}
		fmt.Fprintln(a.out, line)
	}
	return nil
}
