package scheduler

import (
	"testing"
	"testing/synctest"
	"time"
)

// A settled project is repaired by itself. A repair that fails is tried again,
// ever more rarely, the project is degraded meanwhile, and the history tells.
func TestHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		g := h.goal("services: {web: {image: busybox}}", Options{})
		if err := h.Apply(t.Context(), g, nil); err != nil {
			t.Fatal(err)
		}
		lose := func() {
			h.w.mu.Lock()
			defer h.w.mu.Unlock()
			delete(h.w.containers, h.w.named("shop-web-1").ID)
			h.w.happened("shop")
		}
		there := func() bool {
			h.w.mu.Lock()
			defer h.w.mu.Unlock()
			c := h.w.named("shop-web-1")
			return c != nil && c.Status == Running
		}
		lose()
		time.Sleep(time.Second)
		if synctest.Wait(); !there() {
			t.Fatal("what is lost does not come back within a second")
		}
		tries := h.failing("start", "shop-web")
		lose()
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if st := h.status(); st.Phase != Degraded || len(st.Problems) != 1 || st.Next.IsZero() {
			t.Errorf("status %+v", st)
		}
		if n := tries(); n < 20 || n > 40 {
			t.Errorf("%d tries in two hours", n)
		}
		all, err := h.History("shop")
		if err != nil || len(all) == 0 || all[0].Kind != KindRepair {
			t.Errorf("history %v, %v", all, err)
		}
		h.w.mu.Lock()
		h.w.fault = nil
		h.w.mu.Unlock()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if st := h.status(); !there() || st.Phase != Settled || len(st.Problems) > 0 {
			t.Errorf("status %+v", st)
		}
		h.w.byCall("shop-web-1")
		time.Sleep(time.Hour)
		if synctest.Wait(); there() {
			t.Error("what a call removed is there again")
		}
		if err := h.Apply(t.Context(), g, nil); err != nil || !there() {
			t.Errorf("it is not made by the next call: %v", err)
		}
		h.Close()
	})
}

// What a repair has stopped to start it anew runs again, although a call that
// has nothing to do with it has come in between.
func TestHeldThroughACall(t *testing.T) {
	const yaml = `
services:
  db: {image: busybox}
  web: {image: busybox, depends_on: {db: {condition: service_started, restart: true}}}
  other: {image: busybox}`
	inVirtualTime(t, func(h *house) {
		ctx := h.Context()
		if err := h.Apply(ctx, h.goal(yaml, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		runs := func() bool {
			synctest.Wait()
			h.w.mu.Lock()
			defer h.w.mu.Unlock()
			return h.w.named("shop-web-1").Status == Running
		}
		tries := h.failing("start", "shop-web")
		h.w.mu.Lock()
		db := h.w.named("shop-db-1")
		h.w.exit(db, 1)
		db.Lost = true
		h.w.mu.Unlock()
		time.Sleep(10 * time.Second)
		if runs() || tries() == 0 {
			h.Fatal("the repair did not fail halfway")
		}
		h.w.mu.Lock()
		h.w.fault = nil
		h.w.mu.Unlock()
		if err := h.Scale(ctx, "shop", map[string]int{"other": 2}, Options{NoDeps: true, Services: []string{"other"}}, nil); err != nil {
			h.Fatal(err)
		}
		time.Sleep(time.Minute)
		if !runs() {
			h.Error("web stays stopped")
		}
		h.w.mu.Lock()
		web := h.w.named("shop-web-1")
		h.w.exit(web, 143)
		web.Stopped = true
		h.w.mu.Unlock()
		time.Sleep(time.Hour)
		if runs() {
			h.Error("what a call has stopped runs again")
		}
	})
}
