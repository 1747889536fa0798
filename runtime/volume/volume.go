// Package volume keeps named volumes: directories that outlive containers.
// It knows their names, labels, driver options and content on disk,
//
//	ROOT/volumes/NAME/_data         what containers see
//	ROOT/volumes/NAME/volume.json   the record
//
// and refuses to know who uses them: whoever calls [Store.Remove] has made
// sure that nobody does. It mounts nothing itself; [Store.Source] says what is
// to be mounted.
//
// The rule above all others is that content is never deleted except by
// [Store.Remove]. A directory with content but without a record (somebody
// copied it here, or lost the record) becomes a volume.
package volume

import "time"

// DriverLocal is the only driver.
const DriverLocal = "local"

// LabelAnonymous marks a volume that was made without a name, as Docker does.
const LabelAnonymous = "com.docker.volume.anonymous"

// Volume is the record of one volume.
type Volume struct {
	Name   string            // [a-zA-Z0-9][a-zA-Z0-9_.-]*; "" given to Create: 64 hex digits
	Driver string            // "local", also when given as ""
	Labels map[string]string `json:",omitempty"`
	// Options of the driver: none, or "type", "o" and "device" as mount(8)
	// names them; see Source.
	Options    map[string]string `json:",omitempty"`
	Mountpoint string            `json:"-"` // ROOT/volumes/NAME/_data; empty on disk for volumes that live elsewhere
	Created    time.Time
	Anonymous  bool `json:",omitempty"`
}

// Kinds of a Source.
const (
	SourceBind  = "bind"  // Device is a directory of this host
	SourceTmpfs = "tmpfs" // a fresh file system in memory per container
	SourceNFS   = "nfs"   // Device is "host:/path" or ":/path" with addr= among the options
)

// Source is what has to be mounted to show a volume in a container, as data.
type Source struct {
	Type    string   // SourceBind, SourceTmpfs or SourceNFS
	FSType  string   // the kernel's file system type: "", "tmpfs", "nfs" or "nfs4"
	Device  string   // bind: absolute path; nfs: the export; tmpfs: ""
	Options []string // further mount options, checked, in the order given; "bind" and "rbind" are left out
	// Recursive is set for rbind and for the store's own directories.
	Recursive bool
	ReadOnly  bool // "ro" among the options
}
