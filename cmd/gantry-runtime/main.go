// Command gantry-runtime is the keeper of gantry's containers, and what it
// executes inside them.
package main

import (
	"os"

	"gantry/runtime/keeper/server"
)

func main() { os.Exit(server.Main(os.Args)) }
