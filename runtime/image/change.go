package image

import (
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// changers are the instructions of a Dockerfile that change a configuration
// and need nothing else.
var changers = map[string]func(c *dockerspec.DockerOCIImageConfig, rest string) error{
	"CMD":         changeCmd,
	"ENTRYPOINT":  changeEntrypoint,
	"ENV":         changeEnv,
	"EXPOSE":      changeExpose,
	"HEALTHCHECK": changeHealthcheck,
	"LABEL":       changeLabel,
	"ONBUILD":     changeOnbuild,
	"STOPSIGNAL":  changeStopsignal,
	"USER":        changeUser,
	"VOLUME":      changeVolume,
	"WORKDIR":     changeWorkdir,
}

const changeNames = "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR"

// applyChanges carries instructions out, one or several lines each, in their
// order: an ENV is seen by the ones after it.
func applyChanges(c *dockerspec.DockerOCIImageConfig, changes []string) error {
	for _, change := range changes {
		for _, line := range instructions(change) {
			word, rest, _ := strings.Cut(line, " ")
			if i := strings.IndexByte(word, '\t'); i >= 0 {
				word, rest = line[:i], line[i+1:]
			}
			do, ok := changers[strings.ToUpper(word)]
			if !ok {
				return classed(errdefs.ErrInvalidArgument, "change %q: %q is not one of %s", line, word, changeNames)
			}
			rest = strings.TrimSpace(rest)
			if rest == "" {
				return classed(errdefs.ErrInvalidArgument, "change %q: %s needs a value", line, strings.ToUpper(word))
			}
			if err := do(c, rest); err != nil {
				return classed(errdefs.ErrInvalidArgument, "change %q: %w", line, err)
			}
		}
	}
	return nil
}

// instructions splits text into its instructions: one per line, a backslash at
// the end goes on, comment lines and empty ones are nothing.
func instructions(text string) []string {
	var out []string
	open := ""
	for line := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n") {
		trimmed := strings.TrimSpace(line)
		if trimmed == "" || strings.HasPrefix(trimmed, "#") {
			continue
		}
		if more, ok := strings.CutSuffix(strings.TrimRight(line, " \t"), `\`); ok {
			open += more
			continue
		}
		out = append(out, strings.TrimSpace(open+line))
		open = ""
	}
	if open = strings.TrimSpace(open); open != "" {
		out = append(out, open)
	}
	return out
}

// execForm reads `["a", "b"]`. As in a Dockerfile, what is not a JSON list of
// strings is the shell form.
func execForm(rest string) ([]string, bool) {
	if !strings.HasPrefix(rest, "[") {
		return nil, false
	}
	var list []string
	if json.Unmarshal([]byte(rest), &list) != nil {
		return nil, false
	}
	return list, true
}

func command(c *dockerspec.DockerOCIImageConfig, rest string) []string {
	if list, ok := execForm(rest); ok {
		return list
	}
	shell := c.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(append([]string(nil), shell...), rest)
}

func changeCmd(c *dockerspec.DockerOCIImageConfig, rest string) error {
	c.Cmd = command(c, rest)
	return nil
}

func changeEntrypoint(c *dockerspec.DockerOCIImageConfig, rest string) error {
	c.Entrypoint = command(c, rest)
	return nil
}

func changeEnv(c *dockerspec.DockerOCIImageConfig, rest string) error {
	pairs, err := pairs(rest, c.Env)
	if err != nil {
		return err
	}
	for _, p := range pairs {
		c.Env = setEnv(c.Env, p[0], p[1])
	}
	return nil
}

func setEnv(env []string, name, value string) []string {
	for i, e := range env {
		if n, _, _ := strings.Cut(e, "="); n == name {
			env[i] = name + "=" + value
			return env
		}
	}
	return append(env, name+"="+value)
}

func changeLabel(c *dockerspec.DockerOCIImageConfig, rest string) error {
	pairs, err := pairs(rest, c.Env)
	if err != nil {
		return err
	}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	for _, p := range pairs {
		c.Labels[p[0]] = p[1]
	}
	return nil
}

// pairs reads `a=1 b="two words"` or, in the old form, `a the rest is one value`.
func pairs(rest string, env []string) ([][2]string, error) {
	tokens, err := words(rest)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(tokens[0], "=") {
		name, value, ok := strings.Cut(rest, " ")
		if !ok {
			return nil, fmt.Errorf("%q has no value: write %s=VALUE", rest, rest)
		}
		if value, err = expand(strings.TrimSpace(value), env); err != nil {
			return nil, err
		}
		name, err = expand(name, env)
		return [][2]string{{name, value}}, err
	}
	var out [][2]string
	for _, t := range tokens {
		name, value, ok := strings.Cut(t, "=")
		if !ok {
			return nil, fmt.Errorf("%q is not NAME=VALUE (a value with spaces needs quotes)", t)
		}
		if name, err = expand(name, env); err != nil {
			return nil, err
		}
		if name == "" {
			return nil, fmt.Errorf("%q has no name", t)
		}
		if value, err = expand(value, env); err != nil {
			return nil, err
		}
		out = append(out, [2]string{name, value})
	}
	return out, nil
}

func changeExpose(c *dockerspec.DockerOCIImageConfig, rest string) error {
	ports, err := expandedWords(rest, c.Env)
	if err != nil {
		return err
	}
	if c.ExposedPorts == nil {
		c.ExposedPorts = map[string]struct{}{}
	}
	for _, p := range ports {
		number, proto, ok := strings.Cut(p, "/")
		if !ok {
			proto = "tcp"
		}
		proto = strings.ToLower(proto)
		if proto != "tcp" && proto != "udp" && proto != "sctp" {
			return fmt.Errorf("port %q: the protocol is tcp, udp or sctp", p)
		}
		first, last, ranged := strings.Cut(number, "-")
		if !ranged {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil || from == 0 || to < from {
			return fmt.Errorf("port %q is not PORT[-PORT][/PROTOCOL] with ports from 1 to 65535", p)
		}
		for n := from; n <= to; n++ {
			c.ExposedPorts[fmt.Sprintf("%d/%s", n, proto)] = struct{}{}
		}
	}
	return nil
}

func changeUser(c *dockerspec.DockerOCIImageConfig, rest string) error {
	user, err := oneWord("USER", rest, c.Env)
	c.User = user
	return err
}

func changeWorkdir(c *dockerspec.DockerOCIImageConfig, rest string) error {
	dir, err := expand(rest, c.Env)
	if err != nil {
		return err
	}
	if !path.IsAbs(dir) {
		dir = path.Join("/", c.WorkingDir, dir)
	}
	c.WorkingDir = path.Clean(dir)
	return nil
}

func changeVolume(c *dockerspec.DockerOCIImageConfig, rest string) error {
	dirs, ok := execForm(rest)
	if !ok {
		var err error
		if dirs, err = expandedWords(rest, c.Env); err != nil {
			return err
		}
	}
	if c.Volumes == nil {
		c.Volumes = map[string]struct{}{}
	}
	for _, d := range dirs {
		if strings.TrimSpace(d) == "" {
			return fmt.Errorf("a volume's path cannot be empty")
		}
		c.Volumes[d] = struct{}{}
	}
	return nil
}

func changeStopsignal(c *dockerspec.DockerOCIImageConfig, rest string) error {
	sig, err := oneWord("STOPSIGNAL", rest, c.Env)
	if err != nil {
		return err
	}
	if n, err := strconv.Atoi(sig); err == nil {
		if n < 1 || n > 64 {
			return fmt.Errorf("signal %d is not between 1 and 64", n)
		}
	} else {
		name := strings.ToUpper(strings.TrimPrefix(strings.ToUpper(sig), "SIG"))
		realtime := strings.HasPrefix(name, "RTMIN") || strings.HasPrefix(name, "RTMAX")
		if !realtime && unix.SignalNum("SIG"+name) == 0 {
			return fmt.Errorf("there is no signal %q", sig)
		}
	}
	c.StopSignal = sig
	return nil
}

func changeOnbuild(c *dockerspec.DockerOCIImageConfig, rest string) error {
	word, _, _ := strings.Cut(rest, " ")
	switch strings.ToUpper(word) {
	case "ONBUILD", "FROM", "MAINTAINER":
		return fmt.Errorf("%s is not possible after ONBUILD", strings.ToUpper(word))
	}
	c.OnBuild = append(c.OnBuild, rest)
	return nil
}

func changeHealthcheck(c *dockerspec.DockerOCIImageConfig, rest string) error {
	var h dockerspec.HealthcheckConfig
	for strings.HasPrefix(rest, "--") {
		flag, tail, _ := strings.Cut(rest, " ")
		rest = strings.TrimSpace(tail)
		name, value, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
		durations := map[string]*time.Duration{
			"interval": &h.Interval, "timeout": &h.Timeout,
			"start-period": &h.StartPeriod, "start-interval": &h.StartInterval,
		}
		if d := durations[name]; d != nil {
			v, err := time.ParseDuration(value)
			if err != nil || v < 0 || v > 0 && v < time.Millisecond {
				return fmt.Errorf("--%s=%q is not a duration of 1ms or more, such as 30s", name, value)
			}
			*d = v
			continue
		}
		if name != "retries" {
			return fmt.Errorf("%q is not one of --interval, --timeout, --start-period, --start-interval, --retries", flag)
		}
		n, err := strconv.Atoi(value)
		if err != nil || n < 0 {
			return fmt.Errorf("--retries=%q is not a number", value)
		}
		h.Retries = n
	}
	kind, cmd, _ := strings.Cut(rest, " ")
	cmd = strings.TrimSpace(cmd)
	switch strings.ToUpper(kind) {
	case "NONE":
		if cmd != "" {
			return fmt.Errorf("NONE takes nothing after it")
		}
		h = dockerspec.HealthcheckConfig{Test: []string{"NONE"}}
	case "CMD":
		if list, ok := execForm(cmd); ok && len(list) > 0 {
			h.Test = append([]string{"CMD"}, list...)
		} else if cmd != "" && !ok {
			h.Test = []string{"CMD-SHELL", cmd}
		} else {
			return fmt.Errorf("CMD needs a command")
		}
	default:
		return fmt.Errorf("%q is neither NONE nor CMD", kind)
	}
	c.Healthcheck = &h
	return nil
}
