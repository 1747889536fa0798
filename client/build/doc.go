// Package build says what is to be built: a [Request] holds all that a build
// section of a Compose file and the flags of docker build can ask for. It reads
// them, orders what depends on what, and has the builder's program do it.
//
// It knows no BuildKit. What speaks to the daemon's builder, package
// client/build/kit, is linked into gantryd's program and executed for builds
// alone: linked into gantry it would cost every other command more than the
// command itself (see ARCHITECTURE.md).
//
//	gantry ──job──► gantryd build ──BuildKit's API, sessions──► gantryd
//	   ▲ results ◄──┘  │ progress, output
//	   └ terminal ◄────┘
package build
