package api

import (
	"context"

	"gantry/runtime"
)

func (f *fake) Update(_ context.Context, ref string, o runtime.UpdateOptions) error {
	f.mu.Lock()
	f.updated = o
	f.mu.Unlock()
	return f.change("update", ref)
}
