package api

import (
	"slices"
	"strconv"
	"strings"

	"gantry/runtime/spec"

	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"
)

func mounts(c *spec.Config, r createRequest, h *container.HostConfig) error {
	taken := map[string]bool{}
	add := func(m spec.Mount) error {
		if taken[m.Target] {
			return invalid("Duplicate mount point: %s", m.Target)
		}
		taken[m.Target] = true
		c.Mounts = append(c.Mounts, m)
		return nil
	}
	for _, bind := range h.Binds {
		m, err := parseBind(bind)
		if err != nil {
			return err
		}
		if err := add(m); err != nil {
			return err
		}
	}
	for _, in := range h.Mounts {
		m, err := parseMount(in)
		if err != nil {
			return err
		}
		if err := add(m); err != nil {
			return err
		}
	}
	for _, target := range sortedKeys(h.Tmpfs) {
		m, err := parseTmpfs(target, h.Tmpfs[target])
		if err != nil {
			return err
		}
		if err := add(m); err != nil {
			return err
		}
	}
	for _, target := range sortedKeys(r.Volumes) {
		if !taken[target] {
			_ = add(spec.Mount{Type: spec.MountVolume, Target: target})
		}
	}
	return nil
}

// parseBind reads "source:target[:options]" and the lone "target" of an
// anonymous volume. A source that is no path names a volume.
func parseBind(text string) (spec.Mount, error) {
	parts := strings.Split(text, ":")
	if len(parts) > 3 || slices.Contains(parts, "") {
		return spec.Mount{}, invalid("invalid volume specification: '%s'", text)
	}
	if len(parts) == 1 {
		return spec.Mount{Type: spec.MountVolume, Target: parts[0]}, nil
	}
	m := spec.Mount{Type: spec.MountVolume, Source: parts[0], Target: parts[1]}
	if strings.HasPrefix(m.Source, "/") {
		m.Type, m.CreateHostPath = spec.MountBind, true
	} else if strings.HasPrefix(m.Source, ".") || strings.HasPrefix(m.Source, "~") {
		return m, invalid("invalid volume specification: '%s': %s is not an absolute path", text, m.Source)
	}
	if len(parts) == 2 {
		return m, nil
	}
	options := strings.Split(parts[2], ",")
	if slices.Contains(options, "ro") && slices.Contains(options, "rw") {
		return m, invalid("invalid volume specification: '%s': ro and rw exclude each other", text)
	}
	for _, opt := range options {
		switch opt {
		case "rw", "z", "Z", "consistent", "cached", "delegated", "default":
			// The way it is, SELinux labels without SELinux, and hints to
			// another platform.
		case "ro":
			m.ReadOnly = true
		case "nocopy":
			if m.Type != spec.MountVolume {
				return m, invalid("invalid volume specification: '%s': nocopy is for volumes", text)
			}
			m.NoCopy = true
		case "rprivate", "private", "rshared", "shared", "rslave", "slave":
			if m.Type != spec.MountBind {
				return m, invalid("invalid volume specification: '%s': %s is for bind mounts", text, opt)
			}
			m.Propagation = opt
		default:
			return m, invalid("invalid mode: %s", opt)
		}
	}
	return m, nil
}

func parseMount(in mount.Mount) (spec.Mount, error) {
	m := spec.Mount{Type: string(in.Type), Source: in.Source, Target: in.Target, ReadOnly: in.ReadOnly}
	if in.ClusterOptions != nil {
		return m, unsupported("mount %s: type %s is not supported", in.Target, in.Type)
	}
	// Options of another type are a mistake of the caller.
	for _, other := range []struct {
		kind mount.Type
		set  bool
	}{{mount.TypeBind, in.BindOptions != nil}, {mount.TypeVolume, in.VolumeOptions != nil}, {mount.TypeTmpfs, in.TmpfsOptions != nil}, {mount.TypeImage, in.ImageOptions != nil}} {
		if other.set && other.kind != in.Type {
			return m, invalid("mount %s: options of a %s mount on one of type %q", in.Target, other.kind, in.Type)
		}
	}
	switch in.Type {
	case mount.TypeBind:
		if o := in.BindOptions; o != nil {
			m.ShallowReadOnly, m.DeepReadOnly = o.ReadOnlyNonRecursive, o.ReadOnlyForceRecursive
			m.Propagation, m.NonRecursive, m.CreateHostPath = string(o.Propagation), o.NonRecursive, o.CreateMountpoint
		}
	case mount.TypeVolume:
		if o := in.VolumeOptions; o != nil {
			m.NoCopy, m.Subpath, m.Labels = o.NoCopy, o.Subpath, o.Labels
			if d := o.DriverConfig; d != nil {
				if d.Name != "" && d.Name != "local" {
					return m, unsupported("mount %s: the volume driver %s is not supported: local is", in.Target, d.Name)
				}
				m.Driver, m.DriverOptions = d.Name, d.Options
			}
		}
	case mount.TypeImage:
		if o := in.ImageOptions; o != nil {
			m.Subpath = o.Subpath
		}
	case mount.TypeTmpfs:
		if in.Source != "" {
			return m, invalid("mount %s: a tmpfs has no source", in.Target)
		}
		if o := in.TmpfsOptions; o != nil {
			m.TmpfsSize, m.TmpfsMode = o.SizeBytes, uint32(o.Mode)
			for _, opt := range o.Options {
				m.TmpfsOptions = append(m.TmpfsOptions, strings.Join(opt, "="))
			}
		}
	default:
		return m, unsupported("mount %s: type %q is not supported: bind, volume, tmpfs and image are", in.Target, in.Type)
	}
	return m, nil
}

// parseTmpfs reads the options of mount(8).
func parseTmpfs(target, options string) (spec.Mount, error) {
	m := spec.Mount{Type: spec.MountTmpfs, Target: target}
	if options == "" {
		return m, nil
	}
	for opt := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(opt, "=")
		switch name {
		case "rw":
		case "ro":
			m.ReadOnly = true
		case "size":
			n, err := units.RAMInBytes(value)
			if err != nil {
				// A percentage of the memory: the kernel reads it.
				m.TmpfsOptions = append(m.TmpfsOptions, opt)
				continue
			}
			m.TmpfsSize = n
		case "mode":
			n, err := strconv.ParseUint(value, 8, 12)
			if err != nil {
				return m, invalid("tmpfs %s: mode %q is not octal", target, value)
			}
			m.TmpfsMode = uint32(n)
		default:
			m.TmpfsOptions = append(m.TmpfsOptions, opt)
		}
	}
	return m, nil
}
