package api

import (
	"cmp"
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"time"

	"gantry/runtime"
	"gantry/runtime/spec"

	"github.com/moby/moby/api/types/container"
)

// Docker runs the host's ps for this call. gantry reads its options itself and
// fills the columns from what it knows of the processes: there need be no ps,
// and an option that reads a file or shows other people's processes does
// nothing but be refused.

// psView is what the processes are seen with.
type psView struct {
	now    time.Time
	memory int64 // of the machine, bytes
	names  map[string]string
}

// psColumn is one column of ps.
type psColumn struct {
	title string
	value func(p runtime.Process, v *psView) string
}

func psColumns() map[string]psColumn {
	userName := func(p runtime.Process, v *psView) string { return v.user(p.User) }
	count := func(n func(runtime.Process) int) func(runtime.Process, *psView) string {
		return func(p runtime.Process, _ *psView) string { return strconv.Itoa(n(p)) }
	}
	kib := func(n func(runtime.Process) uint64) func(runtime.Process, *psView) string {
		return func(p runtime.Process, _ *psView) string { return strconv.FormatUint(n(p)>>10, 10) }
	}
	command := func(p runtime.Process, _ *psView) string { return p.Command }
	name := func(p runtime.Process, _ *psView) string { return p.Name }
	share := func(p runtime.Process, _ *psView) string { return fmt.Sprintf("%.1f", psShare(p)) }
	of := psColumnsOf{}
	of.add("PID", count(func(p runtime.Process) int { return p.Pid }), "pid", "tgid")
	of.add("PPID", count(func(p runtime.Process) int { return p.Parent }), "ppid")
	of.add("PGID", count(func(p runtime.Process) int { return p.Group }), "pgid", "pgrp")
	of.add("SID", count(func(p runtime.Process) int { return p.Session }), "sid", "sess", "session")
	of.add("NI", count(func(p runtime.Process) int { return p.Nice }), "ni", "nice")
	of.add("NLWP", count(func(p runtime.Process) int { return p.Threads }), "nlwp", "thcount")
	of.add("UID", func(p runtime.Process, _ *psView) string { return p.User }, "uid", "euid")
	of.add("USER", userName, "user", "euser", "uname")
	of.add("S", func(p runtime.Process, _ *psView) string { return p.State }, "s", "state")
	of.add("STAT", func(p runtime.Process, _ *psView) string { return psState(p) }, "stat")
	of.add("TTY", func(p runtime.Process, _ *psView) string { return psTTY(p.TTY) }, "tty", "tt", "tname")
	of.add("VSZ", kib(func(p runtime.Process) uint64 { return p.Virtual }), "vsz", "vsize")
	of.add("RSS", kib(func(p runtime.Process) uint64 { return p.RSS }), "rss", "rssize", "rsz")
	of.add("%CPU", share, "pcpu", "%cpu")
	of.add("%MEM", func(p runtime.Process, v *psView) string {
		return fmt.Sprintf("%.1f", 100*float64(p.RSS)/float64(max(v.memory, 1)))
	}, "pmem", "%mem")
	of.add("C", func(p runtime.Process, _ *psView) string { return strconv.Itoa(int(psShare(p))) }, "c")
	of.add("STIME", func(p runtime.Process, v *psView) string { return psStart(v.now.Add(-p.Age), v.now) }, "stime")
	of.add("START", func(p runtime.Process, v *psView) string { return psStart(v.now.Add(-p.Age), v.now) }, "start_time")
	of.add("STARTED", func(p runtime.Process, v *psView) string { return v.now.Add(-p.Age).Format(time.ANSIC) }, "lstart")
	of.add("ELAPSED", func(p runtime.Process, _ *psView) string { return psElapsed(p.Age) }, "etime")
	of.add("ELAPSED", func(p runtime.Process, _ *psView) string { return strconv.Itoa(int(p.Age.Seconds())) }, "etimes")
	of.add("TIME", func(p runtime.Process, _ *psView) string { return psTime(p.Ticks) }, "time", "cputime")
	of.add("COMMAND", name, "comm", "ucomm", "ucmd")
	of.add("COMMAND", command, "args", "command")
	of.add("CMD", command, "cmd")
	// Columns with another look in one of the usual sets.
	of.add("UID", userName, "full uid")
	of.add("CMD", name, "short cmd")
	of.add("TIME", func(p runtime.Process, _ *psView) string {
		s := p.Ticks / ticksPerSecond
		return fmt.Sprintf("%d:%02d", s/60, s%60)
	}, "short time")
	return of
}

type psColumnsOf map[string]psColumn

func (of psColumnsOf) add(title string, value func(runtime.Process, *psView) string, names ...string) {
	for _, n := range names {
		of[n] = psColumn{title, value}
	}
}

// Sets of columns that have an option.
const (
	psShort = "pid,tty,time,short cmd"
	psFull  = "full uid,pid,ppid,c,stime,tty,time,cmd"
	psBSD   = "pid,tty,stat,short time,command"
	psUser  = "user,pid,%cpu,%mem,vsz,rss,tty,stat,start_time,short time,command"
)

// psOptions reads arguments of ps and gives the columns they ask for. Which
// processes are chosen is not theirs to say: it is those of the container.
func psOptions(text string) ([]string, error) {
	refuse := func(what string) ([]string, error) {
		return nil, unsupported("ps_args %q: %s is not supported: -e, -A, -f, -o COLUMNS, a, u, x, w and o COLUMNS are", text, what)
	}
	var custom []string
	full, bsd, byUser := false, false, false
	words := strings.Fields(text)
	for len(words) > 0 {
		word := words[0]
		words = words[1:]
		if strings.HasPrefix(word, "--") {
			return refuse("the option " + word)
		}
		letters, dashed := strings.CutPrefix(word, "-")
		// "-aux" is what everybody writes for "aux".
		dashed = dashed && letters != "aux" && letters != "auxw" && letters != "auxww"
		for i, letter := range letters {
			switch {
			case letter == 'o':
				list := letters[i+1:]
				if list == "" {
					if len(words) == 0 {
						return nil, invalid("ps_args %q: the columns are missing after o", text)
					}
					list, words = words[0], words[1:]
				}
				custom = append(custom, strings.FieldsFunc(list, func(r rune) bool { return r == ',' })...)
			case dashed && strings.ContainsRune("eAw", letter), !dashed && strings.ContainsRune("axw", letter):
				bsd = bsd || !dashed
				continue
			case dashed && (letter == 'f' || letter == 'F'):
				full = true
				continue
			case !dashed && letter == 'u':
				bsd, byUser = true, true
				continue
			default:
				return refuse(fmt.Sprintf("the option %q", string(letter)))
			}
			break
		}
	}
	switch {
	case len(custom) > 0:
		known := psColumns()
		for i, c := range custom {
			if strings.Contains(c, "=") {
				return refuse("another title for a column")
			}
			if c = strings.ToLower(c); known[c].value == nil || strings.Contains(c, " ") {
				return refuse("the column " + c)
			}
			custom[i] = c
		}
		if !slices.Contains(custom, "pid") {
			return nil, invalid("Couldn't find PID field in ps output")
		}
		return custom, nil
	case byUser:
		return strings.Split(psUser, ","), nil
	case bsd:
		return strings.Split(psBSD, ","), nil
	case full || len(strings.Fields(text)) == 0:
		return strings.Split(psFull, ","), nil
	}
	return strings.Split(psShort, ","), nil
}

// wireTop shows processes with the columns asked for.
func wireTop(all []runtime.Process, columns []string, host spec.Host, now time.Time) container.TopResponse {
	known := psColumns()
	view := &psView{now: now, memory: host.Memory, names: map[string]string{}}
	out := container.TopResponse{Titles: []string{}, Processes: [][]string{}}
	for _, c := range columns {
		out.Titles = append(out.Titles, known[c].title)
	}
	for _, p := range all {
		row := make([]string, len(columns))
		for i, c := range columns {
			row[i] = known[c].value(p, view)
		}
		out.Processes = append(out.Processes, row)
	}
	return out
}

// user is the host's name for a user, or the number.
func (v *psView) user(id string) string {
	if name, ok := v.names[id]; ok {
		return name
	}
	name := id
	if u, err := user.LookupId(id); err == nil {
		name = cmp.Or(u.Username, id)
	}
	v.names[id] = name
	return name
}

// psShare is how much of a processor a process has had since it began, in
// per cent.
func psShare(p runtime.Process) float64 {
	if p.Age <= 0 {
		return 0
	}
	return 100 * float64(p.Ticks) / ticksPerSecond / p.Age.Seconds()
}

// psState is the state with the marks that ps puts behind it.
func psState(p runtime.Process) string {
	s := p.State
	switch {
	case p.Nice < 0:
		s += "<"
	case p.Nice > 0:
		s += "N"
	}
	if p.Session == p.Pid {
		s += "s"
	}
	if p.Threads > 1 {
		s += "l"
	}
	if p.Foreground {
		s += "+"
	}
	return s
}

// psTTY names a terminal by its device number (tty_nr of proc_pid_stat(5)).
func psTTY(number int) string {
	major, minor := number>>8&0xfff, number&0xff|number>>12&0xfff00
	switch {
	case number == 0:
		return "?"
	case major >= 136 && major <= 143:
		return fmt.Sprintf("pts/%d", minor+(major-136)*256)
	case major == 4 && minor < 64:
		return fmt.Sprintf("tty%d", minor)
	}
	return fmt.Sprintf("%d:%d", major, minor)
}

// psStart is the hour of today, the day of this year, or the year.
func psStart(t, now time.Time) string {
	switch {
	case t.YearDay() == now.YearDay() && t.Year() == now.Year():
		return t.Format("15:04")
	case t.Year() == now.Year():
		return t.Format("Jan02")
	}
	return t.Format("2006")
}

func psTime(ticks uint64) string {
	s := ticks / ticksPerSecond
	if days := s / 86400; days > 0 {
		return fmt.Sprintf("%d-%02d:%02d:%02d", days, s/3600%24, s/60%60, s%60)
	}
	return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
}

func psElapsed(d time.Duration) string {
	s := int(d.Seconds())
	switch {
	case s >= 86400:
		return fmt.Sprintf("%d-%02d:%02d:%02d", s/86400, s/3600%24, s/60%60, s%60)
	case s >= 3600:
		return fmt.Sprintf("%02d:%02d:%02d", s/3600, s/60%60, s%60)
	}
	return fmt.Sprintf("%02d:%02d", s/60, s%60)
}
