package image

import (
	"errors"
	"fmt"
	"strings"
)

// words splits at blanks that are not quoted. Quotes and backslashes stay:
// expand takes them away.
func words(s string) ([]string, error) {
	var out []string
	start := -1
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		b := s[i]
		if start < 0 && b != ' ' && b != '\t' {
			start = i
		}
		switch {
		case b == '\\' && quote != '\'':
			i++
		case quote != 0:
			if b == quote {
				quote = 0
			}
		case b == '"' || b == '\'':
			quote = b
		case (b == ' ' || b == '\t') && start >= 0:
			out = append(out, s[start:i])
			start = -1
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a %c is not closed", quote)
	}
	if start >= 0 {
		out = append(out, s[start:])
	}
	return out, nil
}

// expandedWords are the words of s without quotes and with variables replaced.
func expandedWords(s string, env []string) ([]string, error) {
	list, err := words(s)
	if err != nil {
		return nil, err
	}
	for i, w := range list {
		if list[i], err = expand(w, env); err != nil {
			return nil, err
		}
	}
	return list, nil
}

func oneWord(what, s string, env []string) (string, error) {
	list, err := expandedWords(s, env)
	if err != nil {
		return "", err
	}
	if len(list) != 1 || list[0] == "" {
		return "", fmt.Errorf("%s takes exactly one word", what)
	}
	return list[0], nil
}

// expand takes quotes and backslashes away and replaces $NAME, ${NAME},
// ${NAME:-default} and ${NAME:+instead}, as a Dockerfile does: not within
// single quotes, and an unknown variable is empty.
func expand(s string, env []string) (string, error) {
	out, rest, err := expandUntil(s, env, 0)
	if err == nil && rest != "" {
		err = fmt.Errorf("unexpected %q", rest)
	}
	return out, err
}

// expandUntil stops at the unquoted byte end, if that is not 0, and gives back
// what follows it.
func expandUntil(s string, env []string, end byte) (out, rest string, err error) {
	var b strings.Builder
	for s != "" {
		c := s[0]
		s = s[1:]
		switch {
		case end != 0 && c == end:
			return b.String(), s, nil
		case c == '\\' && s != "":
			b.WriteByte(s[0])
			s = s[1:]
		case c == '\'':
			inner, tail, ok := strings.Cut(s, "'")
			if !ok {
				return "", "", errors.New("a ' is not closed")
			}
			b.WriteString(inner)
			s = tail
		case c == '"':
			for {
				if s == "" {
					return "", "", errors.New(`a " is not closed`)
				}
				c, s = s[0], s[1:]
				if c == '"' {
					break
				}
				if c == '\\' && s != "" && strings.IndexByte(`"\$`, s[0]) >= 0 {
					c, s = s[0], s[1:]
					b.WriteByte(c)
					continue
				}
				if c == '$' {
					var v string
					if v, s, err = variable(s, env); err != nil {
						return "", "", err
					}
					b.WriteString(v)
					continue
				}
				b.WriteByte(c)
			}
		case c == '$':
			var v string
			if v, s, err = variable(s, env); err != nil {
				return "", "", err
			}
			b.WriteString(v)
		default:
			b.WriteByte(c)
		}
	}
	if end != 0 {
		return "", "", fmt.Errorf("a %c is missing", end)
	}
	return b.String(), "", nil
}

// variable reads what follows a '$'.
func variable(s string, env []string) (value, rest string, err error) {
	braces := strings.HasPrefix(s, "{")
	if braces {
		s = s[1:]
	}
	n := 0
	for n < len(s) && (s[n] == '_' || s[n] >= 'a' && s[n] <= 'z' || s[n] >= 'A' && s[n] <= 'Z' || n > 0 && s[n] >= '0' && s[n] <= '9') {
		n++
	}
	name := s[:n]
	s = s[n:]
	if !braces {
		if name == "" {
			return "$", s, nil
		}
		value, _ = lookupEnv(env, name)
		return value, s, nil
	}
	value, set := lookupEnv(env, name)
	switch {
	case name == "":
		return "", "", errors.New("${…} has no name")
	case strings.HasPrefix(s, "}"):
		return value, s[1:], nil
	case strings.HasPrefix(s, ":-"), strings.HasPrefix(s, ":+"):
		other, tail, err := expandUntil(s[2:], env, '}')
		if err != nil {
			return "", "", err
		}
		if (s[1] == '-') != (set && value != "") {
			value = other
		} else if s[1] == '+' {
			value = ""
		}
		return value, tail, nil
	}
	return "", "", fmt.Errorf("${%s…: only ${NAME}, ${NAME:-default} and ${NAME:+instead} are known", name)
}

func lookupEnv(env []string, name string) (string, bool) {
	for _, e := range env {
		if n, v, _ := strings.Cut(e, "="); n == name {
			return v, true
		}
	}
	return "", false
}
