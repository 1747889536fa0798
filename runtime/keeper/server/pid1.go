package server

// #cgo CFLAGS: -O2 -Wall -Wextra
import "C" // for pid1.c, in which a container's init never comes as far as Go
