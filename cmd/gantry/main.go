// Command gantry is the client of gantryd.
package main

import (
	"os"

	"gantry/cli"
)

// Set by the linker.
var version, commit = "dev", ""

func main() {
	os.Exit(cli.Main(cli.Version{Number: version, Commit: commit}, os.Args[1:]))
}
