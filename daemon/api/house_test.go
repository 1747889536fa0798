package api

import (
	"gantry/runtime"
	"gantry/scheduler"
)

// What the daemon serves is what the calls are answered from.
var (
	_ Engine   = (*runtime.Engine)(nil)
	_ Projects = (*scheduler.Scheduler)(nil)
)
