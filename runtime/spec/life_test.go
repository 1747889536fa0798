package spec

import (
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]syscall.Signal{
		"TERM": syscall.SIGTERM, "SIGTERM": syscall.SIGTERM, "sigterm": syscall.SIGTERM, "15": syscall.SIGTERM, "9": syscall.SIGKILL,
		"WINCH": syscall.SIGWINCH, "CLD": syscall.SIGCHLD, "POLL": syscall.SIGIO, "IOT": syscall.SIGABRT, "SYS": syscall.SIGSYS, "STKFLT": syscall.SIGSTKFLT, "PWR": syscall.SIGPWR,
		"RTMIN": 34, "SIGRTMIN+3": 37, "rtmin+30": 64, "RTMAX": 64, "SIGRTMAX-2": 62, "RTMAX-30": 34, "64": 64, "1": syscall.SIGHUP,
	} {
		if got, err := ParseSignal(text); got != want || err != nil {
			t.Errorf("%q is %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "SIG", "0", "-1", "65", "FOO", "SIGSIGTERM", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMAX-31", "RTMIN+", "RTMIN3", "RTMIN+ 3", "TERM\n", "99999999999999999999"} {
		if got, err := ParseSignal(text); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
}

func FuzzParseSignal(f *testing.F) {
	for _, seed := range []string{"TERM", "SIGRTMIN+3", "15", "RTMAX-1", "", "SIG", "+", "RTMIN+255"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := ParseSignal(text)
		if err != nil {
			if got != 0 || !errdefs.IsInvalidArgument(err) || strings.ContainsRune(err.Error(), '\n') {
				t.Fatalf("%q: %d, %v", text, got, err)
			}
			return
		}
		if got < 1 || got > 64 {
			t.Fatalf("%q is signal %d", text, got)
		}
		if again, err := ParseSignal(strconv.Itoa(int(got))); again != got || err != nil {
			t.Fatalf("%q is %d, and as a number %d (%v)", text, got, again, err)
		}
	})
}

func TestStop(t *testing.T) {
	forever := time.Duration(-1)
	for _, test := range []struct {
		config Config
		signal syscall.Signal
		grace  time.Duration
	}{
		{Config{}, syscall.SIGTERM, 10 * time.Second},
		{Config{StopSignal: "SIGQUIT"}, syscall.SIGQUIT, 10 * time.Second},
		{Config{StopTimeout: &forever}, syscall.SIGTERM, -1},
		{Config{StopTimeout: new(time.Duration)}, syscall.SIGTERM, 0},
	} {
		if signal, grace := test.config.Stop(); signal != test.signal || grace != test.grace {
			t.Errorf("%+v: %v, %v", test.config, signal, grace)
		}
	}
}

func TestProbeDefaults(t *testing.T) {
	h, ok := Config{Healthcheck: &Healthcheck{Test: []string{"CMD", "true"}, Interval: time.Second}}.Probe()
	if !ok || h.Interval != time.Second || h.Timeout != 30*time.Second || h.StartInterval != 5*time.Second || h.Retries != 3 || h.StartPeriod != 0 {
		t.Errorf("%v %+v", ok, h)
	}
	for _, none := range []*Healthcheck{nil, {}, {Test: []string{"NONE"}}} {
		if h, ok := (Config{Healthcheck: none}).Probe(); ok {
			t.Errorf("%+v gives %+v", none, h)
		}
	}
}
