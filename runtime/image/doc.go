// Package image keeps the images of this machine: what they are called, what
// they are made of, and the directories a container's root is mounted from. It
// knows nothing of containers, networks or the Docker API, and it mounts
// nothing.
//
// It is the only door to containerd's libraries. One [Store] owns one
// directory:
//
//	ROOT/images/meta.db      bolt: image records, labels, leases; its lock keeps a second daemon out
//	ROOT/images/content/     blobs by digest: manifests, configurations, layers as they came
//	ROOT/images/snapshots/   unpacked layers, one directory each (overlay)
//	ROOT/images/unsynced     what of them is perhaps not on the disk, while there is any
//
// # Content, snapshots, records
//
// Content is immutable and named by its digest. An image is a small tree in it:
//
//	record "docker.io/library/web:1" ─► [index ─►] manifest ─► configuration ─► snapshot of the top layer
//	                                                   └─────► layer blobs              └─► … ─► bottom layer
//
// The arrows are labels of garbage collection: what a record reaches stays,
// all else goes at the next [Store.Collect]. A snapshot is named after the
// chain of layers below it, in the way BuildKit names them, so that images
// that share layers, and later builds, share their directories.
//
// # Names and ids
//
// An image's id is the digest of its configuration, as in Docker. Records hold
// full names ("docker.io/library/web:1"); what callers see and say is the
// familiar form ("web:1"). An image that loses its last name without being
// removed ("dangling") keeps a record of its own that no name can collide
// with, until somebody removes it.
//
// # Crashes
//
// Everything an import or a load writes belongs to a lease, and the record is
// written last, in one transaction with the manifest and the configuration. A
// daemon killed in between leaves content without a record; the next Open drops
// the lease, the next Collect the content. An image that is listed is whole, after
// a crash of the machine too: what had not reached the disk is checked and made
// again by the next Open, or removed.
//
// # Images in use
//
// [Store.Lowers] pins an image: a read-only view of its top snapshot, marked
// as a root of the collection. One view serves all containers of an image, so
// a container's start costs no database transaction. The view outlives the
// daemon; [Store.Pinned] lists what is pinned and [Store.Release] lets go.
package image
