// Package build makes images from Dockerfiles. BuildKit's solver and its
// Dockerfile frontend run in this process, on the store that containers run
// from; the steps of a build are run by the keeper, with the rights of a
// container and no more.
//
// It knows BuildKit, and of gantry the store of images, the keeper and the
// network. It knows no containers and no projects: a step is no container that
// anybody can list, and its process does not outlive the daemon that wanted it.
//
//	gantry, docker, buildx ──HTTP──► daemon/api ─┬─ ServeGRPC ─► control ─► solver ─► executor ─► keeper
//	        ▲                                    └─ ServeSession ─┐                      │
//	        └──────── files, secrets, credentials ◄───────────────┴──────────────────────┘
//
// What a build needs of its caller (the files of the context, secrets, keys,
// credentials of registries) stays with the caller: BuildKit asks for it over
// the caller's session, when a step needs it.
package build
