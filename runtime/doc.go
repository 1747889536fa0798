// Package runtime knows what a container is on this machine: its record, its
// life from created to removed, its restarts, health, logs, execs and stats.
//
// It composes the packages below it and owns no mechanism of its own: the
// keeper holds processes, image has root filesystems, volume has data, network
// has addresses. It knows nothing of services, projects or plans; whoever
// declares a desired state lives above and speaks to [Engine].
//
// Everything the Engine must remember is in one record per container, written
// before the deed. A daemon may die at any instant; [Open] reads the records,
// asks the keeper what lives, and finishes or takes back what was under way.
package runtime
