package keeper_test

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"gantry/runtime/keeper"
)

// BenchmarkRun is Run, until the process is let go, then Wait and Delete, each
// with its median.
func BenchmarkRun(b *testing.B) {
	h := newHouse(b)
	var run, whole, del []time.Duration
	i := 0
	for b.Loop() {
		i++
		c := h.bundle(fmt.Sprint("b", i), "true")
		began := time.Now()
		h.start(c)
		run = append(run, time.Since(began))
		if _, err := h.client.Wait(ctx(b), c.ID); err != nil {
			b.Fatal(err)
		}
		whole = append(whole, time.Since(began))
		began = time.Now()
		h.must(h.client.Delete(ctx(b), c.ID))
		del = append(del, time.Since(began))
	}
	b.ReportMetric(h.keeperCPU()*1000/float64(i), "cpu-ms")
	b.ReportMetric(median(run), "run-ms")
	b.ReportMetric(median(whole), "to-exit-ms")
	b.ReportMetric(median(del), "delete-ms")
}

// BenchmarkExec is an exec of true until its exit.
func BenchmarkExec(b *testing.B) {
	h := newHouse(b)
	h.start(h.bundle("host", "sleep", "100000"))
	var all []time.Duration
	idle := h.keeperCPU()
	i := 0
	for b.Loop() {
		i++
		id := fmt.Sprint("e", i)
		began := time.Now()
		if _, err := h.client.Exec(ctx(b), keeper.ExecRequest{ID: "host", ExecID: id, Process: process("true")}); err != nil {
			b.Fatal(err)
		}
		if _, err := h.client.WaitExec(ctx(b), "host", id); err != nil {
			b.Fatal(err)
		}
		all = append(all, time.Since(began))
	}
	b.ReportMetric((h.keeperCPU()-idle)*1000/float64(i), "cpu-ms")
	b.ReportMetric(median(all), "exec-ms")
}

// keeperCPU is what the keeper and the processes it has reaped have used, in
// seconds: a figure that other programs on the machine disturb little.
func (h *house) keeperCPU() float64 {
	h.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", h.client.Pid()))
	h.must(err)
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	ticks := 0
	for _, f := range fields[11:15] { // utime stime cutime cstime
		n, err := strconv.Atoi(f)
		h.must(err)
		ticks += n
	}
	return float64(ticks) / 100
}

func median(d []time.Duration) float64 {
	slices.Sort(d)
	return float64(d[len(d)/2].Microseconds()) / 1000
}
