package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Network definitions are files ROOT/networks/<id>.json.

const storeVersion = 1

type storedNetwork struct {
	Version int
	Network
}

// Docker's rule for names.
var nameRule = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// checkSpec completes what a user asked for, or says what is wrong with it.
func checkSpec(s Spec) (Spec, error) {
	if !nameRule.MatchString(s.Name) {
		return s, fmt.Errorf("network name %q: only letters, digits, and _ . - after the first are allowed: %w", s.Name, errdefs.ErrInvalidArgument)
	}
	wrap := func(err error) error { return fmt.Errorf("network %s: %w", s.Name, err) }
	if s.Name == "host" || s.Name == "none" {
		return s, wrap(fmt.Errorf("the name is reserved: %w", errdefs.ErrInvalidArgument))
	}
	switch s.Driver {
	case "", DriverBridge, "default":
		s.Driver = DriverBridge
	case DriverMacvlan:
		if s.Internal {
			return s, wrap(fmt.Errorf("an internal macvlan would still reach its parent's network; use an internal bridge: %w", errdefs.ErrNotImplemented))
		}
	default:
		return s, wrap(fmt.Errorf("driver %q is not supported; bridge and macvlan are: %w", s.Driver, errdefs.ErrNotImplemented))
	}
	asked := s.Subnets
	s.Subnets = nil
	for _, sub := range asked {
		sub, err := checkSubnet(sub)
		if err != nil {
			return s, wrap(err)
		}
		six := sub.Prefix.Addr().Is6()
		if six && !s.EnableIPv6 {
			return s, wrap(fmt.Errorf("subnet %s is IPv6, which the network does not have; enable IPv6 for it: %w", sub.Prefix, errdefs.ErrInvalidArgument))
		}
		for _, o := range s.Subnets {
			if o.Prefix.Addr().Is6() == six {
				return s, wrap(fmt.Errorf("two subnets of one family, %s and %s, are not supported; keep one: %w", o.Prefix, sub.Prefix, errdefs.ErrNotImplemented))
			}
		}
		s.Subnets = append(s.Subnets, sub)
	}
	sortSubnets(s.Subnets)
	if _, err := settingsOf(s); err != nil {
		return s, wrap(err)
	}
	return s, nil
}

// sortSubnets puts that of IPv4 first.
func sortSubnets(all []Subnet) {
	slices.SortFunc(all, func(a, b Subnet) int { return a.Prefix.Addr().BitLen() - b.Prefix.Addr().BitLen() })
}

func (f *Fabric) networkFile(id string) string {
	return filepath.Join(f.root, "networks", id+".json")
}

func (f *Fabric) saveNetwork(n Network) error {
	b, err := json.MarshalIndent(storedNetwork{storeVersion, n}, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(f.networkFile(n.ID), b, true)
}

func (f *Fabric) loadNetworks() ([]Network, error) {
	dir := filepath.Join(f.root, "networks")
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []Network
	for _, e := range files {
		path := filepath.Join(dir, e.Name())
		if strings.HasSuffix(e.Name(), ".tmp") { // of a write that never finished
			if err := os.Remove(path); err != nil {
				return nil, err
			}
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		var s storedNetwork
		if err := json.Unmarshal(b, &s); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
		if s.Version != storeVersion || len(s.Subnets) == 0 {
			return nil, fmt.Errorf("read %s: version %d is not known", path, s.Version)
		}
		all = append(all, s.Network)
	}
	return all, nil
}

// writeFile puts a whole file in place of another at once. durable makes it
// outlive a loss of power; what lives in RUN does not need that.
func writeFile(path string, b []byte, durable bool) (err error) {
	tmp := path + ".tmp"
	file, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(b)
	if err == nil && durable {
		err = file.Sync()
	}
	err = errors.Join(err, file.Close())
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	if !durable {
		return nil
	}
	return syncDir(filepath.Dir(path))
}

func removeFile(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
