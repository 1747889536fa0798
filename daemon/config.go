// Package daemon is gantryd: it opens everything in the order it stands on,
// serves the API until it is told to stop, and closes in reverse. It decides
// nothing about containers or projects; it introduces those who do.
package daemon

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Version says what was built; the linker sets it.
type Version struct{ Number, Commit, Built string }

// Config is everything gantryd can be told.
type Config struct {
	Root  string   // durable state
	Run   string   // state of this boot
	Certs string   // how registries are reached: HOST/hosts.toml
	Hosts []string // addresses to serve the API on, "unix:///…" or "tcp://…"
	TLS   TLS      // of tcp addresses
	Debug bool     // log more

	Budget  Budget // of what is collected without being asked for
	Measure string // how often autoscaled services are measured; "": every 15 s

	Version Version
	Log     *slog.Logger
}

// Places of the default daemon.
const (
	defaultRoot = "/var/lib/gantry"
	defaultRun  = "/run/gantry"

	defaultCerts = "/etc/gantry/certs.d"
)

// Default is the configuration of a daemon that is told nothing but its
// environment: GANTRY_ROOT, GANTRY_RUN, GANTRY_CERTS and GANTRY_HOST.
func Default(getenv func(string) string) Config {
	or := func(name, v string) string {
		if e := getenv(name); e != "" {
			return e
		}
		return v
	}
	c := Config{Root: or("GANTRY_ROOT", defaultRoot), Run: or("GANTRY_RUN", defaultRun), Certs: or("GANTRY_CERTS", defaultCerts)}
	c.Budget = Budget{MaxUsed: getenv("GANTRY_MAX_USED_SPACE"), MinFree: getenv("GANTRY_MIN_FREE_SPACE"), Unused: getenv("GANTRY_UNUSED_FOR")}
	c.Measure = getenv("GANTRY_MEASURE")
	if h := getenv("GANTRY_HOST"); h != "" {
		c.Hosts = []string{h}
	}
	return c
}

// complete fills what follows from the rest and checks what was given.
func (c Config) complete() (Config, error) {
	dirs := []*string{&c.Root, &c.Run}
	if c.Certs != "" {
		dirs = append(dirs, &c.Certs)
	}
	for _, dir := range dirs {
		abs, err := filepath.Abs(*dir)
		if err != nil {
			return c, err
		}
		*dir = abs
	}
	// Sockets have room for 107 bytes (unix(7)); the longest name below Run is
	// a control socket's.
	if len(c.Run) > 80 {
		return c, fmt.Errorf("run directory %s: longer than 80 bytes, sockets below it could not be named; choose a shorter one", c.Run)
	}
	if _, err := c.Budget.on(0); err != nil {
		return c, err
	}
	if _, err := c.measure(); err != nil {
		return c, err
	}
	if len(c.Hosts) == 0 {
		c.Hosts = []string{"unix://" + filepath.Join(c.Run, "gantry.sock")}
	}
	for _, h := range c.Hosts {
		if address, ok := isTCP(h); ok {
			if err := c.checkTCP(h, address); err != nil {
				return c, err
			}
			continue
		}
		path, ok := strings.CutPrefix(h, "unix://")
		if !ok {
			return c, fmt.Errorf("host %s: only unix:// and tcp:// addresses are served", h)
		}
		if !filepath.IsAbs(path) || len(path) > 107 {
			return c, fmt.Errorf("host %s: needs an absolute path of at most 107 bytes", h)
		}
	}
	return c, nil
}

// measure is Measure as a time, 0 where nothing is said.
func (c Config) measure() (time.Duration, error) {
	if c.Measure == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(c.Measure)
	if err != nil || d < leastMeasure {
		return 0, fmt.Errorf("--measure %q is no time of at least %s; write it as 15s", c.Measure, leastMeasure)
	}
	return d, nil
}

// leastMeasure bounds what measuring may cost.
const leastMeasure = 100 * time.Millisecond

// LogFile is where the log of a daemon goes that a client or its keeper has
// started: both make it its standard error.
func (c Config) LogFile() string { return filepath.Join(c.Root, "gantryd.log") }

// instance tells this daemon's kernel objects from those of others on the
// machine. A daemon is known by its run directory: two cannot share one.
func (c Config) instance() string { return c.Run }

// cgroupParent is where containers live below the root of every hierarchy. A
// daemon that was given a cgroup of its own to manage (systemd's Delegate=)
// stays below it.
func (c Config) cgroupParent() string {
	name := "gantry"
	if c.Run != defaultRun {
		sum := sha256.Sum256([]byte(c.Run))
		name += "-" + hex.EncodeToString(sum[:4])
	}
	return filepath.Join("/", delegated(cgroupRoot, "/proc/self/cgroup"), name)
}

// bySystemd says whether systemd itself started this process. What a service
// starts inherits its environment, so the process id is looked at
// (systemd.exec(5), SYSTEMD_EXEC_PID).
func bySystemd(getenv func(string) string) bool {
	return getenv("SYSTEMD_EXEC_PID") == strconv.Itoa(os.Getpid())
}

const cgroupRoot = "/sys/fs/cgroup"

// leaf is the cgroup below a delegated one that the daemon itself is in: one
// with processes in it cannot give controllers to those below it (cgroups(7),
// "no internal processes").
const leaf = "daemon"

// delegated is the cgroup systemd gave this service, "" without systemd or
// where controllers are on version 1, which systemd does not delegate. self is
// the process's own list of cgroups.
func delegated(root, self string) string {
	if !bySystemd(os.Getenv) {
		return ""
	}
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err != nil {
		return ""
	}
	data, err := os.ReadFile(self)
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return strings.TrimSuffix(path, "/"+leaf)
		}
	}
	return ""
}

// enterLeaf moves this process from a delegated cgroup to its leaf.
func enterLeaf(root, delegated string) error {
	if delegated == "" {
		return nil
	}
	dir := filepath.Join(root, delegated, leaf)
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make a cgroup of my own: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
		return fmt.Errorf("enter a cgroup of my own: %w", err)
	}
	return nil
}
