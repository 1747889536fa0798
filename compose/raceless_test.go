//go:build !race

package compose

const racing = false
