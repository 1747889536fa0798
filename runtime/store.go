package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"gantry/network"
)

// recordVersion is the form of the records. A daemon reads its own and all
// older forms, and refuses newer ones rather than lose what it does not know.
const recordVersion = 1

// records keeps one directory per container below root:
//
//	<id>/container.json   what the container is; always synced to the disk
//	<id>/state.json       where it stands in its life; small, for it is written at every step
//	<id>/hostname, hosts, resolv.conf
//	<id>/upper, work      the container's own layer
//	<id>/container.log    and its rotated predecessors
//
// Contents of secrets and configs are in container.json, which root alone can
// read; what containers mount of them lies on tmpfs in the run directory.
type records struct{ root string }

func (r records) dir(id string) string { return filepath.Join(r.root, id) }

// identity is container.json.
type identity struct {
	Version int
	ID      string
	Name    string
	Created time.Time
	Asked   Config
	Config  Config
	Mounts  []MountPoint `json:",omitempty"`
	LogPath string       `json:",omitempty"`
}

// standing is state.json.
type standing struct {
	Version      int
	State        State
	Pid          int         `json:",omitempty"`
	StartedAt    time.Time   `json:",omitzero"`
	FinishedAt   time.Time   `json:",omitzero"`
	ExitCode     int         `json:",omitempty"`
	ExitLost     bool        `json:",omitempty"`
	OOMKilled    bool        `json:",omitempty"`
	Lost         bool        `json:",omitempty"`
	Error        string      `json:",omitempty"`
	Stopped      bool        `json:",omitempty"`
	Committing   bool        `json:",omitempty"`
	Removal      *Removal    `json:",omitempty"`
	RestartCount int         `json:",omitempty"`
	Crashes      int         `json:",omitempty"`
	Recent       []time.Time `json:",omitempty"`
	GaveUp       string      `json:",omitempty"`
	Health       *Health     `json:",omitempty"`
	Networks     []network.Joined
	Ports        []network.Binding
	Changed      time.Time
}

// writeIdentity replaces container.json; it has reached the disk when
// writeIdentity returns.
func (r records) writeIdentity(c Container) error {
	return r.put(c, "container.json", true, identity{
		Version: recordVersion, ID: c.ID, Name: c.Name, Created: c.Created,
		Asked: c.Asked, Config: c.Config, Mounts: c.Mounts, LogPath: c.LogPath,
	})
}

// writeState replaces state.json. What is not synced is written in one step all
// the same, and lost at worst together with the processes it tells of: only a
// power cut loses it. Intents are synced, for they hold after one.
func (r records) writeState(c Container, synced bool) error {
	return r.put(c, "state.json", synced, standing{
		Version: recordVersion, State: c.State, Pid: c.Pid, StartedAt: c.StartedAt, FinishedAt: c.FinishedAt,
		ExitCode: c.ExitCode, ExitLost: c.ExitLost, OOMKilled: c.OOMKilled, Lost: c.Lost, Error: c.Error,
		Stopped: c.Stopped, Committing: c.Committing, Removal: c.Removal, RestartCount: c.RestartCount, Crashes: c.Crashes, Recent: c.Recent, GaveUp: c.GaveUp,
		Health: c.Health, Networks: c.Networks, Ports: c.Ports, Changed: c.Changed,
	})
}

func (r records) put(c Container, file string, synced bool, v any) error {
	data, err := json.Marshal(v)
	if err == nil {
		err = writeFile(filepath.Join(r.dir(c.ID), file), data, 0o600, synced)
	}
	if err != nil {
		return fmt.Errorf("record container %s: %w", c.Name, err)
	}
	return nil
}

// writeFile puts data at path by way of a temporary file beside it.
func writeFile(path string, data []byte, mode fs.FileMode, synced bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode))
	if synced {
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	if synced {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// load reads every record. A directory without one is what a creation left
// that never returned; its id is among the torn. One that cannot be read is
// left alone, with all that belongs to it: its id is among the broken.
func (r records) load(log *slog.Logger) (all []Container, torn, broken []string, err error) {
	if err := os.MkdirAll(r.root, 0o710); err != nil {
		return nil, nil, nil, err
	}
	dirs, err := os.ReadDir(r.root)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, d := range dirs {
		c, err := r.read(d.Name())
		var newer newerError
		switch {
		case err == nil:
			all = append(all, c)
		case errors.Is(err, fs.ErrNotExist):
			torn = append(torn, d.Name())
		case errors.As(err, &newer):
			return nil, nil, nil, err
		default:
			log.Error("a container's record cannot be read; restore it from a backup, or remove its directory, and start the daemon again", "error", err)
			broken = append(broken, d.Name())
		}
	}
	return all, torn, broken, nil
}

type newerError struct {
	path    string
	version int
}

func (e newerError) Error() string {
	return fmt.Sprintf("%s: written by a newer gantry (form %d, this one knows %d); start that one", e.path, e.version, recordVersion)
}

func (r records) read(id string) (Container, error) {
	var who identity
	if err := r.get(id, "container.json", &who, &who.Version); err != nil {
		return Container{}, err
	}
	if who.ID != id {
		return Container{}, fmt.Errorf("%s: it is the record of %q", r.dir(id), who.ID)
	}
	c := Container{
		ID: who.ID, Name: who.Name, Created: who.Created, Asked: who.Asked, Config: who.Config,
		Mounts: who.Mounts, LogPath: who.LogPath, State: Created,
	}
	var at standing
	switch err := r.get(id, "state.json", &at, &at.Version); {
	case errors.Is(err, fs.ErrNotExist): // never started
		return c, nil
	case errors.As(err, &newerError{}):
		return c, err
	case err != nil:
		// A power cut may leave the last state empty. There is no process then,
		// and the restart policy decides as after any other end.
		at = standing{State: Running, StartedAt: who.Created}
	}
	c.State, c.Pid, c.StartedAt, c.FinishedAt = at.State, at.Pid, at.StartedAt, at.FinishedAt
	c.ExitCode, c.ExitLost, c.OOMKilled, c.Lost, c.Error = at.ExitCode, at.ExitLost, at.OOMKilled, at.Lost, at.Error
	c.Stopped, c.Committing, c.Removal, c.RestartCount, c.Crashes = at.Stopped, at.Committing, at.Removal, at.RestartCount, at.Crashes
	c.Recent, c.GaveUp = at.Recent, at.GaveUp
	c.Health, c.Networks, c.Ports, c.Changed = at.Health, at.Networks, at.Ports, at.Changed
	return c, nil
}

// get decodes a file of a record into v, whose version is then in version.
func (r records) get(id, file string, v any, version *int) error {
	path := filepath.Join(r.dir(id), file)
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if *version > recordVersion {
		return newerError{path, *version}
	}
	return nil
}
