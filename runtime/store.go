package runtime

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// recordVersion is the form of container.json. A daemon reads its own and all
// older forms, and refuses newer ones rather than lose what it does not know.
const recordVersion = 1

// records keeps one directory per container below root:
//
//	<id>/container.json   the record
//	<id>/hostname, hosts, resolv.conf
//	<id>/files/           contents of secrets and configs are not here: they live on tmpfs in the run directory
//	<id>/upper, work      the container's own layer
//	<id>/container.log    and its rotated predecessors
type records struct{ root string }

func (r records) dir(id string) string { return filepath.Join(r.root, id) }

// write replaces the record. A durable write has reached the disk when write
// returns; other writes are atomic, and lost at worst together with the running
// state they describe (a power cut ends the container as well).
func (r records) write(c Container, durable bool) error {
	c.Version = recordVersion
	data, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("record of container %s: %w", c.Name, err)
	}
	return writeFile(filepath.Join(r.dir(c.ID), "container.json"), data, 0o600, durable)
}

// writeFile puts data at path by way of a temporary file beside it.
func writeFile(path string, data []byte, mode fs.FileMode, durable bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode))
	if durable {
		err = errors.Join(err, f.Sync())
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		os.Remove(f.Name())
		return err
	}
	if durable {
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
// that never returned; its id is among the torn.
func (r records) load() (all []Container, torn []string, err error) {
	dirs, err := os.ReadDir(r.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, os.MkdirAll(r.root, 0o710)
	}
	if err != nil {
		return nil, nil, err
	}
	for _, d := range dirs {
		path := filepath.Join(r.dir(d.Name()), "container.json")
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			torn = append(torn, d.Name())
			continue
		}
		if err != nil {
			return nil, nil, err
		}
		var c Container
		if err := json.Unmarshal(data, &c); err != nil {
			return nil, nil, fmt.Errorf("%s: %w; restore it from a backup or remove its directory", path, err)
		}
		if c.Version > recordVersion {
			return nil, nil, fmt.Errorf("%s: written by a newer gantry (form %d, this one knows %d); start that one", path, c.Version, recordVersion)
		}
		all = append(all, c)
	}
	return all, torn, nil
}
