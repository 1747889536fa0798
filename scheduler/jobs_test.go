package scheduler

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const nightly = `
services:
  backup: {image: busybox, x-gantry: {schedule: "0 3 * * *"}, depends_on: {db: {condition: service_healthy}}}
  db: {image: busybox, healthcheck: {test: "true"}}
`

// inTheEvening is a scheduler whose day is the first of January 2000, at noon,
// with the nightly project up.
func inTheEvening(t *testing.T, f func(h *house)) {
	inVirtualTime(t, func(h *house) {
		time.Sleep(12 * time.Hour)
		h.w.behave["db"] = "check"
		if err := h.Apply(h.Context(), h.goal(nightly, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		f(h)
	})
}

// again is what a daemon that has died and one that is started a while later do.
func (h *house) again(later time.Duration) {
	h.Helper()
	h.Close()
	time.Sleep(later)
	s, err := Open(Config{Root: h.dir, Engine: h.engine, Log: slog.New(slog.NewTextHandler(&h.log, nil))})
	if err != nil {
		h.Fatal(err)
	}
	h.Scheduler = s
	synctest.Wait()
}

// runs are the runs in the history, the oldest first: "Changes: Outcome Error".
func (h *house) runs() (all []string) {
	h.Helper()
	revisions, err := h.History("shop")
	if err != nil {
		h.Fatal(err)
	}
	for _, r := range slices.Backward(revisions) {
		if r.Kind == KindRun {
			all = append(all, strings.TrimSpace(fmt.Sprintf("%s: %s %s", strings.Join(r.Changes, "; "), r.Outcome, r.Error)))
		}
	}
	return all
}

func (h *house) expectRuns(want ...string) {
	h.Helper()
	if got := h.runs(); !slices.Equal(got, want) {
		h.Errorf("runs\n got %s\nwant %s", strings.Join(got, "\n     "), strings.Join(want, "\n     "))
	}
}

// backups are the containers of the job.
func (h *house) backups() (all []Container) {
	h.w.mu.Lock()
	defer h.w.mu.Unlock()
	for _, c := range h.w.containers {
		if c.Service == "backup" {
			all = append(all, *c)
		}
	}
	return all
}

func (h *house) ends(code int) {
	h.Helper()
	h.w.mu.Lock()
	for _, c := range h.w.containers {
		if c.Service == "backup" && c.Status == Running {
			c.Status, c.ExitCode, c.FinishedAt = Exited, code, c.StartedAt.Add(90*time.Second)
		}
	}
	h.w.mu.Unlock()
	h.w.happened("shop")
	synctest.Wait()
}

func TestJobRunsAtItsTimes(t *testing.T) {
	inTheEvening(t, func(h *house) {
		h.passes(14*time.Hour + 59*time.Minute)
		if n := len(h.backups()); n != 0 {
			h.Errorf("%d containers before it is due", n)
		}
		st := h.status().Services[0]
		if st.Wanted != 0 || st.Schedule != "0 3 * * *" || !st.NextRun.Equal(time.Date(2000, 1, 2, 3, 0, 0, 0, time.UTC)) {
			h.Errorf("%+v", st)
		}
		h.passes(2 * time.Minute)
		all := h.backups()
		if len(all) != 1 || all[0].Status != Running || all[0].Name != "shop-backup-1" || all[0].Run != "2000-01-02T03:00:00Z" {
			h.Fatalf("%+v", all)
		}
		h.expectRuns("backup: due at 2000-01-02 03:00 UTC: under way")
		// An up says nothing of it.
		if err := h.Apply(h.Context(), h.goal(nightly, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		h.ends(0)
		h.expectRuns("backup: due at 2000-01-02 03:00 UTC, exit code 0 after 1m30s: done")
		if revisions, _ := h.History("shop"); revisions[0].Took != 90*time.Second {
			h.Errorf("took %s", revisions[0].Took)
		}
		if err := h.Apply(h.Context(), h.goal(nightly, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		if again := h.backups(); len(again) != 1 || again[0].ID != all[0].ID || again[0].Status != Exited {
			h.Errorf("an up has done something to the job: %+v", again)
		}
		h.passes(24 * time.Hour) // and the next one takes its place
		if again := h.backups(); len(again) != 1 || again[0].ID == all[0].ID || again[0].Status != Running {
			h.Errorf("the next night: %+v", again)
		}
		h.ends(3)
		h.expectRuns("backup: due at 2000-01-02 03:00 UTC, exit code 0 after 1m30s: done",
			"backup: due at 2000-01-03 03:00 UTC, exit code 3 after 1m30s: failed exit code 3")
		if err := h.Down(h.Context(), "shop", Options{}, nil); err != nil {
			h.Fatal(err)
		}
		h.passes(48 * time.Hour)
		if n := len(h.backups()); n != 0 {
			h.Errorf("%d containers of a project that is down", n)
		}
	})
}

// A run that is under way when the next is due has it skipped.
func TestJobIsNeverRunTwiceAtOnce(t *testing.T) {
	inTheEvening(t, func(h *house) {
		h.passes(3*24*time.Hour - time.Hour)
		if all := h.backups(); len(all) != 1 || all[0].Run != "2000-01-02T03:00:00Z" {
			h.Errorf("%+v", all)
		}
		h.ends(0)
		h.expectRuns("backup: due at 2000-01-02 03:00 UTC, exit code 0 after 1m30s; backup: 2 more were due before it had ended, and are skipped: done")
		h.passes(24 * time.Hour)
		if all := h.backups(); len(all) != 1 || all[0].Run != "2000-01-05T03:00:00Z" {
			h.Errorf("%+v", all)
		}
	})
}

// A daemon that starts again goes on with a run, and makes up for those that it
// has missed by one, whatever it was doing when it died.
func TestJobsSurviveTheDaemon(t *testing.T) {
	inTheEvening(t, func(h *house) {
		h.again(3 * 24 * time.Hour) // off over three nights
		all := h.backups()
		if len(all) != 1 || all[0].Status != Running {
			h.Fatalf("%+v", all)
		}
		h.again(time.Minute) // while it runs
		h.expectRuns("backup: due at 2000-01-04 03:00 UTC; backup: for 2 that were missed before it as well: under way")
		h.Close()
		h.w.mu.Lock()
		for _, c := range h.w.containers {
			if c.Service == "backup" {
				c.Status, c.FinishedAt = Exited, c.StartedAt.Add(time.Second)
			}
		}
		h.w.mu.Unlock()
		h.again(0) // it has ended meanwhile
		h.expectRuns("backup: due at 2000-01-04 03:00 UTC, exit code 0 after 1s; backup: for 2 that were missed before it as well: done")
		h.again(time.Hour)
		if again := h.backups(); len(again) != 1 || again[0].ID != all[0].ID {
			h.Errorf("it was run again: %+v", again)
		}
		// Dead in the middle of making it: it is made once all the same.
		for _, part := range []string{"create", "start"} {
			dead := false
			h.w.mu.Lock()
			h.w.fault = func(p, object string) error {
				if p == part && object == "shop-backup-1" {
					dead = true
					h.cancel() // the daemon's end
					return errors.New("died")
				}
				return nil
			}
			h.w.mu.Unlock()
			h.passes(24 * time.Hour)
			h.w.mu.Lock()
			h.w.fault = nil
			h.w.mu.Unlock()
			if !dead {
				h.Fatalf("nothing was done: %s", part)
			}
			h.again(time.Minute)
			if all := h.backups(); len(all) != 1 || all[0].Status != Running {
				h.Errorf("after a death at %s: %+v", part, all)
			}
			h.ends(0)
		}
		if got := h.runs(); len(got) != 3 || !strings.HasSuffix(got[2], "done") {
			h.Errorf("%q", got)
		}
	})
}

func TestJobThatCannotRun(t *testing.T) {
	inTheEvening(t, func(h *house) {
		tries := h.failing("create", "shop-backup-1")
		h.passes(15 * time.Hour)
		if tries() != 1 {
			h.Errorf("tried %d times", tries())
		}
		if got := h.runs(); len(got) != 1 || !strings.Contains(got[0], "failed") {
			h.Errorf("%q", got)
		}
		h.w.mu.Lock()
		h.w.fault = nil
		h.w.mu.Unlock()
		h.passes(24 * time.Hour)
		if all := h.backups(); len(all) != 1 {
			h.Errorf("%+v", all)
		}
		// Its container is taken away by hand: the run is over, and not made again.
		for _, c := range h.backups() {
			h.w.mu.Lock()
			delete(h.w.containers, c.ID)
			h.w.mu.Unlock()
		}
		h.w.happened("shop")
		synctest.Wait()
		if got := h.runs(); len(got) != 2 || !strings.HasSuffix(got[1], "interrupted its container was removed") {
			h.Errorf("%q", got)
		}
		// Stopped, it is not run, and what it missed is not made up for.
		if err := h.Stop(h.Context(), "shop", Options{Services: []string{"backup"}}, nil); err != nil {
			h.Fatal(err)
		}
		h.passes(48 * time.Hour)
		if err := h.Start(h.Context(), "shop", Options{Services: []string{"backup"}}, nil); err != nil {
			h.Fatal(err)
		}
		h.passes(time.Hour)
		if got := h.runs(); len(got) != 2 || len(h.backups()) != 0 {
			h.Errorf("%q", got)
		}
		h.passes(24 * time.Hour)
		if got := h.runs(); len(got) != 3 {
			h.Errorf("%q", got)
		}
		err := h.Scale(h.Context(), "shop", map[string]int{"backup": 2}, Options{}, nil)
		if err == nil || !strings.Contains(err.Error(), "run by its schedule") {
			h.Error(err)
		}
	})
}

// What becomes a job loses its replicas, and what is one no longer gets some.
func TestServiceBecomesAJob(t *testing.T) {
	inTheEvening(t, func(h *house) {
		plain := strings.Replace(nightly, `x-gantry: {schedule: "0 3 * * *"}, `, "", 1)
		h.passes(15 * time.Hour)
		h.ends(0)
		if err := h.Apply(h.Context(), h.goal(plain, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		if all := h.backups(); len(all) != 1 || all[0].Status != Running {
			h.Errorf("no job any more: %+v", all)
		}
		if err := h.Apply(h.Context(), h.goal(strings.Replace(plain, "backup: {", "backup: {environment: {A: b}, ", 1), Options{}), nil); err != nil {
			h.Fatal(err)
		}
		if err := h.Apply(h.Context(), h.goal(nightly, Options{}), nil); err != nil {
			h.Fatal(err)
		}
		if all := h.backups(); len(all) != 0 {
			h.Errorf("a job: %+v", all)
		}
	})
}

func TestDueOf(t *testing.T) {
	at := func(text string) time.Time {
		v, err := time.Parse("2006-01-02 15:04:05", text)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, tt := range []struct {
		schedule, from, now, due string
		missed                   int
		next                     string
	}{
		{"0 3 * * *", "2026-01-01 12:00:00", "2026-01-02 02:59:59", "", 0, "2026-01-02 03:00:00"},
		{"0 3 * * *", "2026-01-01 12:00:00", "2026-01-02 03:00:00", "2026-01-02 03:00:00", 0, "2026-01-03 03:00:00"},
		{"0 3 * * *", "2026-01-01 12:00:00", "2026-01-05 02:00:00", "2026-01-04 03:00:00", 2, "2026-01-05 03:00:00"},
		{"*/5 * * * *", "2026-01-01 12:00:00", "2026-01-01 12:05:30", "2026-01-01 12:05:00", 0, "2026-01-01 12:10:00"},
		{"@every 1m", "2025-01-01 12:00:00", "2026-01-01 12:00:30", "2025-01-02 04:41:00", mostMissed, "2026-01-01 12:01:30"},
		{"0 0 30 2 *", "2025-01-01 12:00:00", "2026-01-01 12:00:30", "", 0, ""},
		{"0 3 * * *", "2026-01-02 12:00:00", "2026-01-01 12:00:00", "", 0, "2026-01-03 03:00:00"}, // the clock was set back
	} {
		due, missed, next, err := dueOf(tt.schedule, at(tt.from), at(tt.now))
		text := func(v time.Time) string {
			if v.IsZero() {
				return ""
			}
			return v.Format("2006-01-02 15:04:05")
		}
		if err != nil || text(due) != tt.due || missed != tt.missed || text(next) != tt.next {
			t.Errorf("%s from %s at %s: due %s, %d missed, next %s, %v", tt.schedule, tt.from, tt.now, text(due), missed, text(next), err)
		}
	}
}
