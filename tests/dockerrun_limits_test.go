package tests

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// disk is a block device of this machine with its numbers, "254:0".
func disk(t testing.TB) (path, numbers string) {
	t.Helper()
	for _, d := range []string{"vda", "sda", "nvme0n1", "loop0"} {
		if dev, err := os.ReadFile("/sys/block/" + d + "/dev"); err == nil {
			if _, err := os.Stat("/dev/" + d); err == nil {
				return "/dev/" + d, strings.TrimSpace(string(dev))
			}
		}
	}
	t.Skip("no block device here whose use could be limited")
	return "", ""
}

// cgroup1 tells whether limits are read in the files of version 1.
func cgroup1() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err != nil
}

// limitRows are devices and limits, as the files of cgroup version 1 show them.
func limitRows(dir, disk, numbers string) []dockerRun {
	show := func(file string) string { return "cat /sys/fs/cgroup/" + file }
	return []dockerRun{
		row("--cpus 0.5", show("cpu/cpu.cfs_quota_us"), "50000"),
		refusedRow("--cpus 0.001", "0.01"),
		refusedRow("--cpus 4096", "CPU"),
		refusedRow("--cpus 1 --cpu-quota 5000", "keep one"),
		row("--cpu-shares 512", show("cpu/cpu.shares"), "512"),
		row("-c 300", show("cpu/cpu.shares"), "300"),
		row("--cpu-period 50000 --cpu-quota 25000", show("cpu/cpu.cfs_period_us")+"; "+show("cpu/cpu.cfs_quota_us"), "50000\n25000"),
		refusedRow("--cpu-period 1", "1000"),
		refusedRow("--cpu-quota 1", "1000"),
		row("--cpuset-cpus 0 --cpuset-mems 0", show("cpuset/cpuset.cpus")+"; "+show("cpuset/cpuset.mems"), "0\n0"),
		refusedRow("--cpuset-cpus 4000", "4000"),
		refusedRow("--cpuset-cpus x", "cpuset"),
		// Nobody has given gantry's own group any real time.
		refusedRow("--cpu-rt-period 100000 --cpu-rt-runtime 95000", "real|rt_"),
		refusedRow("--cpu-rt-period 1000 --cpu-rt-runtime 2000", "cpu_rt_runtime"),
		row("--memory 32m", show("memory/memory.limit_in_bytes"), "33554432"),
		row("-m 32m --memory-reservation 16m", show("memory/memory.soft_limit_in_bytes"), "16777216"),
		row("-m 32m --memory-swap 48m", show("memory/memory.limit_in_bytes"), "33554432"),
		row("-m 32m --memory-swap -1", show("memory/memory.limit_in_bytes"), "33554432"),
		row("--memory-swappiness 10", show("memory/memory.swappiness"), "10"),
		refusedRow("--memory 1m", "6 MiB|6MB"),
		refusedRow("--memory-swap 64m", "mem_limit"),
		refusedRow("-m 64m --memory-swap 32m", "less"),
		refusedRow("--memory-swappiness 101", "100"),
		row("--kernel-memory 32m", "echo runs", "runs"), // ignored with a warning, as by Docker
		row("-m 32m --oom-kill-disable", show("memory/memory.oom_control"), "oom_kill_disable 1\n.*"),
		row("--oom-score-adj 500", "cat /proc/self/oom_score_adj", "500"),
		refusedRow("--oom-score-adj 5000", "1000"),
		row("--pids-limit 50", show("pids/pids.max"), "50"),
		row("--pids-limit -1", show("pids/pids.max"), "max"),
		row("--ulimit nofile=100:200 --ulimit core=0", "ulimit -Sn; ulimit -Hn; ulimit -c", "100\n200\n0"),
		row("--ulimit nofile=64", "ulimit -Sn; ulimit -Hn", "64\n64"),
		refusedRow("--ulimit nofile=200:100", "maximum|soft"),
		refusedRow("--ulimit no-such=1", "no-such"),
		row("--shm-size 1m", "df -k /dev/shm | tail -1 | awk '{print $2}'", "1024"),
		row("--shm-size 1m --ipc shareable", "df -k /dev/shm | tail -1 | awk '{print $2}'", "1024"),
		refusedRow("--shm-size -1", ".*"),
		row("--device-read-bps "+disk+":1mb", show("blkio/blkio.throttle.read_bps_device"), numbers+" 1048576"),
		row("--device-write-bps "+disk+":2mb", show("blkio/blkio.throttle.write_bps_device"), numbers+" 2097152"),
		row("--device-read-iops "+disk+":30", show("blkio/blkio.throttle.read_iops_device"), numbers+" 30"),
		row("--device-write-iops "+disk+":40", show("blkio/blkio.throttle.write_iops_device"), numbers+" 40"),
		refusedRow("--device-read-bps /dev/no-such:1mb", "no-such"),
		refusedRow("--device-read-bps /dev/null:1mb", "block device"),
		row("--blkio-weight 300", "echo runs", "runs"), // where the kernel has none: a warning
		row("--blkio-weight-device "+disk+":300", "echo runs", "runs"),
		refusedRow("--blkio-weight 5", "1000"),
		row("--device /dev/null:/dev/mine", "ls -l /dev/mine; echo x > /dev/mine && echo written", "crw.* 1, +3 .*\nwritten"),
		row("--device /dev/full:/dev/mine:r", "head -c1 /dev/mine | wc -c; sh -c 'exec 3>/dev/mine' 2>/dev/null || echo unwritable", "1\n.*"),
		row("--device "+dir+"/devices:/dev/some", "ls /dev/some /dev/some/deep; head -c2 /dev/some/deep/zero | wc -c", ".*deep\nnil\n\n.*zero\n2"),
		refusedRow("--device /dev/no-such", "no-such"),
		refusedRow("--device "+dir+"/empty:/dev/x", "no device"),
		refusedRow("--device /dev/null:/dev/mine:rwx", "rwx|invalid"),
		{flags: []string{"--device-cgroup-rule", "c 42:7 rwm"}, inside: "cat /sys/fs/cgroup/devices/devices.list | grep 42:7", want: "c 42:7 rwm"},
		{flags: []string{"--device-cgroup-rule", "x 1"}, inside: "true", refused: "x 1"},
		refusedRow("--storage-opt size=1g", "StorageOpt"),
	}
}

func TestDockerRunLimits(t *testing.T) {
	t.Parallel()
	needsDocker(t)
	if !cgroup1() {
		t.Skip("limits are read in the files of cgroup version 1, which this machine has not")
	}
	disk, numbers := disk(t)
	m := newMachine(t, memory())
	devices := filepath.Join(m.dir, "devices")
	if err := os.MkdirAll(filepath.Join(devices, "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(m.dir, "empty"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, minor := range map[string]uint32{"nil": 3, "deep/zero": 5} {
		if err := unix.Mknod(filepath.Join(devices, name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("flags", func(t *testing.T) { runRows(t, m, limitRows(m.dir, disk, numbers)) })

	// What Docker discards, it says in the answer.
	for _, c := range []struct {
		host map[string]any
		want string
	}{
		{map[string]any{"KernelMemory": 32 << 20}, `Kernel memory`},
		{map[string]any{"OomKillDisable": true}, `OOM killer is disabled`},
		{map[string]any{"NetworkMode": "host", "PortBindings": map[string]any{"80/tcp": []any{map[string]string{"HostPort": "0"}}}}, `Published ports are discarded`},
	} {
		code, text := m.api("POST", "/v1.41/containers/create", map[string]any{"Image": "busybox", "HostConfig": c.host})
		var answer struct {
			ID       string `json:"Id"`
			Warnings []string
		}
		if err := json.Unmarshal([]byte(text), &answer); err != nil || code != 201 {
			t.Errorf("%v: %d %s", c.host, code, text)
			continue
		}
		if !regexp.MustCompile(c.want).MatchString(strings.Join(answer.Warnings, "\n")) {
			t.Errorf("%v: warnings %q, want %q", c.host, answer.Warnings, c.want)
		}
		m.dockerOK("rm", "-f", answer.ID)
	}
	// Values that cannot be are the caller's mistake.
	for name, host := range map[string]map[string]any{
		"CpuCount": {"CpuCount": 1}, "CpuPercent": {"CpuPercent": 1}, "IOMaximumIOps": {"IOMaximumIOps": 1}, "IOMaximumBandwidth": {"IOMaximumBandwidth": 1},
		"Isolation": {"Isolation": "process"}, "Umask": {"Umask": 18}, "Memory": {"Memory": 1}, "ConsoleSizeX": {"ConsoleSizeX": 1},
	} {
		if code, text := m.api("POST", "/v1.44/containers/create", map[string]any{"Image": "busybox", "HostConfig": host}); code != 400 && code != 501 {
			t.Errorf("%s: %d %s", name, code, text)
		}
	}
}
