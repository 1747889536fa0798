//go:build race

package compose

// racing says that the race detector is on.
const racing = true
