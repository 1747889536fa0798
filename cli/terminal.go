package cli

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// descriptor is the file behind a reader or writer, nil if there is none.
func descriptor(v any) *os.File {
	if r, ok := v.(*results); ok {
		v = r.Writer
	}
	f, _ := v.(*os.File)
	return f
}

// isTerminal reports whether a reader or writer is a terminal.
func isTerminal(v any) bool {
	f := descriptor(v)
	return f != nil && term.IsTerminal(int(f.Fd()))
}

// terminalSize is the size of the terminal behind v in cells; 80×24 if it does
// not tell.
func terminalSize(v any) (width, height int) {
	if f := descriptor(v); f != nil {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col > 0 && size.Row > 0 {
			return int(size.Col), int(size.Row)
		}
	}
	return 80, 24
}

// colourful decides on colours for a writer: --ansi, then NO_COLOR, then
// whether it is a terminal that knows them.
func (a *app) colourful(w io.Writer) bool {
	switch {
	case a.ansi == "always":
		return true
	case a.ansi == "never" || a.env("NO_COLOR") != "" || a.env("TERM") == "dumb":
		return false
	}
	return isTerminal(w)
}

// Colours, as the parameters of SGR.
const (
	bold   = "1"
	dim    = "2"
	red    = "31"
	green  = "32"
	yellow = "33"
	blue   = "34"
	cyan   = "36"
)

// paint puts text into a colour, if there are any.
func paint(on bool, colour, text string) string {
	if !on || text == "" || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}
