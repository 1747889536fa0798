package volume

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Mount options that stand alone, as mount(8) names them, for every kind.
var flags = []string{
	"ro", "rw", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync",
	"atime", "noatime", "diratime", "nodiratime", "relatime", "norelatime", "strictatime", "nosymfollow", "defaults",
}

// Propagations of a bind.
var propagations = []string{"private", "rprivate", "shared", "rshared", "slave", "rslave"}

// Propagation says whether an option of a bind is one.
func Propagation(option string) bool { return slices.Contains(propagations, option) }

// superblock are flags of a whole file system, which a bind of it cannot have.
var superblock = []string{"sync", "async", "dirsync"}

// Options of tmpfs(5) that have a value.
var tmpfsValues = []string{"size", "nr_blocks", "nr_inodes", "mode", "uid", "gid", "huge", "mpol"}

// source reads the local driver's options. own is the store's directory, the
// source of a volume without options.
func source(options map[string]string, own string) (Source, error) {
	for k := range options {
		switch k {
		case "type", "o", "device":
		case "size":
			return Source{}, fmt.Errorf("volume option %q is not supported: the file system's quotas are not used: %w", k, errdefs.ErrNotImplemented)
		default:
			return Source{}, fmt.Errorf("volume option %q is unknown to the local driver (type, o and device are known): %w", k, errdefs.ErrInvalidArgument)
		}
	}
	kind, device := options["type"], options["device"]
	var opts []string
	for o := range strings.SplitSeq(options["o"], ",") {
		if o = strings.TrimSpace(o); o != "" {
			opts = append(opts, o)
		}
	}
	switch kind {
	case "", "none", "bind":
		if kind == "" && device == "" && len(opts) == 0 {
			return Source{Type: SourceBind, Device: own, Recursive: true}, nil
		}
		return bindSource(kind, device, opts)
	case "tmpfs":
		return tmpfsSource(opts)
	case "nfs", "nfs4":
		return nfsSource(kind, device, opts)
	}
	return Source{}, fmt.Errorf("volume option type=%s is not supported (none, tmpfs, nfs and nfs4 are): %w", kind, errdefs.ErrNotImplemented)
}

func bindSource(kind, device string, opts []string) (Source, error) {
	s := Source{Type: SourceBind, Device: filepath.Clean(device)}
	bind := kind == "bind"
	for _, o := range opts {
		switch {
		case o == "bind":
			bind = true
		case o == "rbind":
			bind, s.Recursive = true, true
		case slices.Contains(superblock, o):
			return Source{}, fmt.Errorf("volume option o=%s belongs to the file system below a bind: mount that with it: %w", o, errdefs.ErrInvalidArgument)
		case slices.Contains(flags, o) || Propagation(o):
			s.add(o)
		default:
			return Source{}, unknownOption(o, "a bind")
		}
	}
	switch {
	case !bind:
		return Source{}, fmt.Errorf("volume option type=%q needs o=bind (or type=tmpfs, nfs): %w", kind, errdefs.ErrInvalidArgument)
	case device == "":
		return Source{}, fmt.Errorf("volume option o=bind needs device=/a/directory: %w", errdefs.ErrInvalidArgument)
	case !filepath.IsAbs(device) || strings.ContainsRune(device, 0):
		return Source{}, fmt.Errorf("volume option device=%q is not an absolute path: %w", device, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

func tmpfsSource(opts []string) (Source, error) {
	s := Source{Type: SourceTmpfs, FSType: "tmpfs"}
	for _, o := range opts {
		key, value, has := strings.Cut(o, "=")
		if has && value != "" && slices.Contains(tmpfsValues, key) || !has && slices.Contains(flags, o) {
			s.add(o)
			continue
		}
		return Source{}, unknownOption(o, "a tmpfs")
	}
	return s, nil
}

// nfsSource checks only what is gantry's business: which of the many options
// a kernel's NFS client knows, it says itself.
func nfsSource(kind, device string, opts []string) (Source, error) {
	s := Source{Type: SourceNFS, FSType: kind, Device: device}
	addr := ""
	for _, o := range opts {
		if a, ok := strings.CutPrefix(o, "addr="); ok {
			addr = a
		}
		s.add(o)
	}
	// "host:/path"; an IPv6 host is in brackets
	i := strings.LastIndex(device, ":/")
	if i < 0 {
		return Source{}, fmt.Errorf("volume option device=%q is not an NFS export (host:/path, or :/path with addr= in o): %w", device, errdefs.ErrInvalidArgument)
	}
	if i == 0 && addr == "" {
		return Source{}, fmt.Errorf("volume option device=%q names no host, and o has no addr=: %w", device, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

func (s *Source) add(option string) {
	s.ReadOnly = option == "ro" || s.ReadOnly && option != "rw"
	s.Options = append(s.Options, option)
}

func unknownOption(o, what string) error {
	return fmt.Errorf("volume option o=%s is not supported for %s: %w", o, what, errdefs.ErrInvalidArgument)
}
