package logs

import (
	"time"
	"unicode/utf16"
	"unicode/utf8"
)

// maxRecord bounds what a reader takes for one line of a file. A record of
// ours is at most MaxLine bytes, six on disk for each, and a frame of ~100;
// the rest is room for what others may add ("attrs").
const maxRecord = 1 << 20

// plain holds the bytes that stand for themselves in a JSON string. Docker
// also escapes <, > and &, so that a log may be pasted into a page.
var plain = func() (t [256]bool) {
	for b := 0x20; b < utf8.RuneSelf; b++ {
		t[b] = b != '"' && b != '\\' && b != '<' && b != '>' && b != '&'
	}
	return t
}()

const hexDigits = "0123456789abcdef"

// appendRecord adds one line of the file to dst. stamp is the time as
// appendStamp wrote it.
func appendRecord(dst, line []byte, s Stream, stamp []byte) []byte {
	dst = append(dst, `{"log":"`...)
	dst = appendEscaped(dst, line)
	if s == Stderr {
		dst = append(dst, `","stream":"stderr","time":"`...)
	} else {
		dst = append(dst, `","stream":"stdout","time":"`...)
	}
	dst = append(dst, stamp...)
	return append(dst, '"', '}', '\n')
}

func appendStamp(dst []byte, at time.Time) []byte {
	return at.UTC().AppendFormat(dst, time.RFC3339Nano)
}

// appendEscaped adds s as the inside of a JSON string, with the same escapes
// as Docker's json-file. A byte that is not UTF-8 becomes U+FFFD: JSON has no
// way to carry it.
func appendEscaped(dst, s []byte) []byte {
	start := 0
	for i := 0; i < len(s); {
		b := s[i]
		if plain[b] {
			i++
			continue
		}
		size := 1
		if b >= utf8.RuneSelf {
			var r rune
			r, size = utf8.DecodeRune(s[i:])
			if r == utf8.RuneError && size == 1 {
				dst = append(append(dst, s[start:i]...), `\ufffd`...)
			} else if r == '\u2028' || r == '\u2029' { // end a line in JavaScript
				dst = append(append(dst, s[start:i]...), `\u202`...)
				dst = append(dst, hexDigits[r&0xf])
			} else {
				i += size
				continue
			}
		} else {
			dst = append(dst, s[start:i]...)
			switch b {
			case '"', '\\':
				dst = append(dst, '\\', b)
			case '\n':
				dst = append(dst, '\\', 'n')
			case '\r':
				dst = append(dst, '\\', 'r')
			default:
				dst = append(dst, '\\', 'u', '0', '0', hexDigits[b>>4], hexDigits[b&0xf])
			}
		}
		i += size
		start = i
	}
	return append(dst, s[start:]...)
}

// parse reads one line of the file, without its newline. The entry's Line
// lies in scratch, which is returned to be used again. It understands any JSON
// object with the three members in any order, since files may come from
// Docker or have passed through other hands.
func parse(line, scratch []byte) (e Entry, rest []byte, ok bool) {
	p := parser{b: line}
	scratch = scratch[:0]
	var haveLog, haveTime bool
	if !p.take('{') {
		return e, scratch, false
	}
	for {
		key, good := p.raw()
		if !good || !p.take(':') {
			return e, scratch, false
		}
		switch string(key) {
		case "log":
			if scratch, good = p.unquote(scratch[:0]); !good {
				return e, scratch, false
			}
			haveLog = true
		case "stream":
			val, good := p.raw()
			switch {
			case good && string(val) == "stdout":
				e.Stream = Stdout
			case good && string(val) == "stderr":
				e.Stream = Stderr
			default:
				return e, scratch, false
			}
		case "time":
			val, good := p.raw()
			if !good || e.Time.UnmarshalText(val) != nil {
				return e, scratch, false
			}
			haveTime = true
		default:
			if !p.skip() {
				return e, scratch, false
			}
		}
		if p.take(',') {
			continue
		}
		break
	}
	if !p.take('}') || !p.end() || !haveLog || !haveTime || e.Stream == 0 {
		return e, scratch, false
	}
	e.Line = scratch
	return e, scratch, true
}

// parser walks over one line.
type parser struct {
	b []byte
	i int
}

func (p *parser) space() {
	for p.i < len(p.b) && (p.b[p.i] == ' ' || p.b[p.i] == '\t' || p.b[p.i] == '\r') {
		p.i++
	}
}

func (p *parser) take(c byte) bool {
	p.space()
	if p.i < len(p.b) && p.b[p.i] == c {
		p.i++
		return true
	}
	return false
}

func (p *parser) end() bool {
	p.space()
	return p.i == len(p.b)
}

// raw takes a string and gives what lies between its quotes, escapes and all.
func (p *parser) raw() ([]byte, bool) {
	if !p.take('"') {
		return nil, false
	}
	start := p.i
	for ; p.i < len(p.b); p.i++ {
		switch p.b[p.i] {
		case '"':
			p.i++
			return p.b[start : p.i-1], true
		case '\\':
			p.i++
		}
	}
	return nil, false
}

// skip takes any value. It counts brackets and does not look closer: nobody
// reads what it skips.
func (p *parser) skip() bool {
	p.space()
	depth, start := 0, p.i
	for p.i < len(p.b) {
		switch p.b[p.i] {
		case '"':
			if _, ok := p.raw(); !ok {
				return false
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return p.i > start
			}
			depth--
		case ',':
			if depth == 0 {
				return p.i > start
			}
		}
		p.i++
	}
	return false
}

// unquote takes a string and adds what it stands for to dst.
func (p *parser) unquote(dst []byte) ([]byte, bool) {
	if !p.take('"') {
		return dst, false
	}
	start := p.i
	for p.i < len(p.b) {
		switch c := p.b[p.i]; {
		case c == '"':
			dst = append(dst, p.b[start:p.i]...)
			p.i++
			return dst, true
		case c < ' ':
			return dst, false
		case c != '\\':
			p.i++
			continue
		}
		dst = append(dst, p.b[start:p.i]...)
		p.i++
		if p.i >= len(p.b) {
			return dst, false
		}
		c := p.b[p.i]
		p.i++
		switch c {
		case '"', '\\', '/':
			dst = append(dst, c)
		case 'n':
			dst = append(dst, '\n')
		case 'r':
			dst = append(dst, '\r')
		case 't':
			dst = append(dst, '\t')
		case 'b':
			dst = append(dst, '\b')
		case 'f':
			dst = append(dst, '\f')
		case 'u':
			r, ok := p.hex4()
			if !ok {
				return dst, false
			}
			if utf16.IsSurrogate(r) {
				r = p.surrogate(r)
			}
			dst = utf8.AppendRune(dst, r)
		default:
			return dst, false
		}
		start = p.i
	}
	return dst, false
}

func (p *parser) hex4() (r rune, ok bool) {
	if p.i+4 > len(p.b) {
		return 0, false
	}
	for _, c := range p.b[p.i : p.i+4] {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	p.i += 4
	return r, true
}

// surrogate joins r with the half that follows; one alone is U+FFFD.
func (p *parser) surrogate(r rune) rune {
	mark := p.i
	if p.i+1 < len(p.b) && p.b[p.i] == '\\' && p.b[p.i+1] == 'u' {
		p.i += 2
		if low, ok := p.hex4(); ok {
			if r := utf16.DecodeRune(r, low); r != utf8.RuneError {
				return r
			}
		}
	}
	p.i = mark
	return utf8.RuneError
}
