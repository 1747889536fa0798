package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Network definitions are files ROOT/networks/<id>.json.

const storeVersion = 1

type storedNetwork struct {
	Version int
	Network
}

// Options of the bridge driver that are honoured.
const (
	optionMTU        = "com.docker.network.driver.mtu"                  // bytes
	optionMasquerade = "com.docker.network.bridge.enable_ip_masquerade" // "false": leave with the sandbox's own address
	optionICC        = "com.docker.network.bridge.enable_icc"           // "true" only
)

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
	case "", "bridge", "default":
		s.Driver = "bridge"
	default:
		return s, wrap(fmt.Errorf("driver %q is not supported; only bridge is: %w", s.Driver, errdefs.ErrNotImplemented))
	}
	if s.EnableIPv6 {
		return s, wrap(fmt.Errorf("IPv6 inside networks is not supported yet; leave enable_ipv6 out: %w", errdefs.ErrNotImplemented))
	}
	if len(s.Subnets) > 1 {
		return s, wrap(fmt.Errorf("%d subnets are not supported, only one is: %w", len(s.Subnets), errdefs.ErrNotImplemented))
	}
	if len(s.Subnets) == 1 {
		sub, err := checkSubnet(s.Subnets[0])
		if err != nil {
			return s, wrap(err)
		}
		s.Subnets = []Subnet{sub}
	}
	if _, _, err := options(s.Options); err != nil {
		return s, wrap(err)
	}
	return s, nil
}

// options reads the driver's options: mtu 0 is the kernel's.
func options(o map[string]string) (mtu int, masquerade bool, err error) {
	masquerade = true
	for k, v := range o {
		switch k {
		case optionMTU:
			if mtu, err = strconv.Atoi(v); err != nil || mtu < 68 || mtu > 65535 {
				return 0, false, fmt.Errorf("option %s=%q is no size between 68 and 65535: %w", k, v, errdefs.ErrInvalidArgument)
			}
		case optionMasquerade:
			if masquerade, err = strconv.ParseBool(v); err != nil {
				return 0, false, fmt.Errorf("option %s=%q is neither true nor false: %w", k, v, errdefs.ErrInvalidArgument)
			}
		case optionICC:
			if on, err := strconv.ParseBool(v); err != nil || !on {
				return 0, false, fmt.Errorf("option %s=%q is not supported, only true is: %w", k, v, errdefs.ErrNotImplemented)
			}
		default:
			return 0, false, fmt.Errorf("driver option %q is not supported: %w", k, errdefs.ErrNotImplemented)
		}
	}
	return mtu, masquerade, nil
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
		if s.Version != storeVersion || len(s.Subnets) != 1 {
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
