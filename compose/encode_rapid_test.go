package compose

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/types"
	"pgregory.net/rapid"
)

// text draws strings that YAML, interpolation and short forms might trip over.
func text() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.StringMatching(`[a-z]{1,8}`),
		rapid.SampledFrom([]string{"", " ", "yes", "null", "~", "0x1f", "0o17", "017", "1e3", "1_000", "2001-01-01", "12:30", "a: b", "a #b", "- a", "? a",
			"{a}", "[a", "*a", "&a", "!a", "|", ">", "%a", "@a", "`a", "'a", `"a`, `\n`, "a\nb", "a\n\n b\n", "\ta", "a ", "é✓𝄞", "\u0085", "\u2028",
			"\x01\x7f", "<<", "=", "$", "$$", "${A}", "${A:-b}", "$A", "true", ".inf", "-", "---", "...", "x-y"}),
		rapid.String(),
	)
}

func oneOf(values ...any) *rapid.Generator[any] { return rapid.SampledFrom(values) }

func anyOf[T any](g *rapid.Generator[T]) *rapid.Generator[any] {
	return rapid.Map(g, func(v T) any { return v })
}

func list(g *rapid.Generator[any]) *rapid.Generator[any] {
	return rapid.Map(rapid.SliceOfN(g, 0, 3), func(v []any) any { return v })
}

// texts draws maps of such strings under plain keys.
func texts() *rapid.Generator[any] {
	return rapid.Map(rapid.MapOfN(rapid.StringMatching(`[A-Za-z_][A-Za-z0-9_.-]{0,6}`), text(), 0, 4), func(m map[string]string) any {
		out := map[string]any{}
		for k, v := range m {
			out[k] = v
		}
		return out
	})
}

// object draws some of the keys of a mapping.
func object(keys map[string]*rapid.Generator[any]) *rapid.Generator[any] {
	return rapid.Custom(func(t *rapid.T) any {
		out := map[string]any{}
		for _, k := range sortedKeys(keys) {
			if rapid.IntRange(0, 3).Draw(t, k+"?") == 0 {
				out[k] = keys[k].Draw(t, k)
			}
		}
		return out
	})
}

var duration = oneOf("1s", "1m30s", "500ms", "1h0m1.5s", "0s")

// serviceKeys has nearly every key of a service.
var serviceKeys = map[string]*rapid.Generator[any]{
	"annotations":     texts(),
	"attach":          oneOf(true, false),
	"blkio_config":    oneOf(map[string]any{"weight": 300, "device_read_bps": []any{map[string]any{"path": "/dev/sda", "rate": "12mb"}}, "weight_device": []any{map[string]any{"path": "/dev/sdb", "weight": 10}}}),
	"build":           oneOf("./dir", map[string]any{"context": ".", "dockerfile_inline": "FROM a\nRUN $$b", "args": []any{"A=b", "C"}, "ssh": []any{"default"}}),
	"cap_add":         oneOf([]any{"NET_ADMIN", "ALL"}),
	"cgroup":          oneOf("host", "private"),
	"command":         rapid.OneOf(list(anyOf(text())), oneOf("echo 'a b' c", "", nil, []any{})),
	"configs":         oneOf([]any{"c"}, []any{map[string]any{"source": "c", "target": "/x", "uid": "1", "gid": "2", "mode": 0o440}}),
	"cpu_period":      oneOf(100000),
	"cpus":            oneOf(0.5, "1.25", 2),
	"cpuset":          oneOf("0-1"),
	"credential_spec": oneOf(map[string]any{"file": "f"}),
	"depends_on": oneOf([]any{"base"}, map[string]any{"base": map[string]any{"condition": "service_healthy", "restart": true}},
		map[string]any{"base": map[string]any{"condition": "service_completed_successfully", "required": false}}),
	"deploy": oneOf(map[string]any{"replicas": 3, "labels": []any{"a=b"}, "mode": "global", "resources": map[string]any{
		"limits": map[string]any{"cpus": "0.30", "memory": "50M", "pids": 7}, "reservations": map[string]any{"memory": "1g",
			"generic_resources": []any{map[string]any{"discrete_resource_spec": map[string]any{"kind": "ssd", "value": 2}}},
			"devices":           []any{map[string]any{"capabilities": []any{"gpu"}, "count": "all"}}}},
		"restart_policy": map[string]any{"condition": "on-failure", "delay": "5s", "max_attempts": 3, "window": "2m"},
		"update_config":  map[string]any{"parallelism": 2, "order": "start-first", "delay": "10s", "max_failure_ratio": 0.5}},
		map[string]any{"placement": map[string]any{"constraints": []any{"a==b"}, "preferences": []any{map[string]any{"spread": "x"}}, "max_replicas_per_node": 1}}),
	"develop":        oneOf(map[string]any{"watch": []any{map[string]any{"path": "./a", "action": "sync", "target": "/b", "ignore": []any{"x/"}}}}),
	"devices":        oneOf([]any{"/dev/fuse:/dev/fuse:rw", map[string]any{"source": "/dev/a", "target": "/dev/b"}}),
	"dns":            oneOf("1.1.1.1", []any{"1.1.1.1", "::1"}),
	"dns_opt":        oneOf([]any{"ndots:2"}),
	"entrypoint":     rapid.OneOf(list(anyOf(text())), oneOf("sh -c 'a'", "", nil)),
	"environment":    rapid.OneOf(texts(), oneOf([]any{"A=b=c", "B=", "NOT_SET"}, map[string]any{"N": nil, "I": 1, "F": 1.5, "B": true})),
	"env_file":       oneOf("e.env", []any{map[string]any{"path": "e.env", "required": false}}),
	"expose":         oneOf([]any{80, "90-91/udp"}),
	"external_links": oneOf([]any{"x:y"}),
	"extra_hosts":    oneOf([]any{"a:1.1.1.1", "b=::1", "h:host-gateway"}, map[string]any{"a": "1.1.1.1", "b": []any{"1.1.1.1", "::2"}}),
	"gpus":           oneOf("all", []any{map[string]any{"driver": "d", "count": 2}}),
	"group_add":      oneOf([]any{"mail", 1000}),
	"healthcheck": rapid.OneOf(object(map[string]*rapid.Generator[any]{"test": rapid.OneOf(anyOf(text()), oneOf([]any{"CMD", "a", "$$b"})), "interval": duration, "timeout": duration,
		"retries": oneOf(3), "start_period": duration, "start_interval": duration}), oneOf(map[string]any{"disable": true})),
	"hostname":          oneOf("h"),
	"init":              oneOf(true, false),
	"ipc":               oneOf("host", "shareable", "service:base"),
	"labels":            rapid.OneOf(texts(), oneOf([]any{"a=b", "c"}, map[string]any{"n": 1, "b": false, "z": nil})),
	"links":             oneOf([]any{"base:alias"}),
	"logging":           oneOf(map[string]any{"driver": "json-file", "options": map[string]any{"max-size": "1m", "max-file": 3, "n": nil}}),
	"mac_address":       oneOf("02:42:ac:11:00:01"),
	"mem_limit":         oneOf("64m", 1048576),
	"mem_swappiness":    oneOf(0, 60),
	"memswap_limit":     oneOf(-1, "1g"),
	"networks":          oneOf([]any{"n"}, map[string]any{"n": map[string]any{"aliases": []any{"a"}, "ipv4_address": "10.9.0.2", "priority": 5}, "default": nil}),
	"oom_score_adj":     oneOf(-500),
	"pid":               oneOf("host", "service:base"),
	"pids_limit":        oneOf(-1, 100),
	"platform":          oneOf("linux/amd64"),
	"ports":             oneOf([]any{"80", 443, "8080-8082:80-82", "127.0.0.1::53/udp", "[::1]:90:90"}, []any{map[string]any{"target": 80, "published": "8000-8010", "name": "web", "app_protocol": "http", "mode": "host"}}),
	"post_start":        oneOf([]any{map[string]any{"command": "a b", "user": "root", "environment": []any{"A=$$b"}}}),
	"pre_start":         oneOf([]any{map[string]any{"command": []any{"a"}, "per_replica": true}}),
	"privileged":        oneOf(true, "false"),
	"profiles":          oneOf([]any{"on"}),
	"provider":          oneOf(map[string]any{"type": "p", "options": map[string]any{"a": "b", "c": []any{"d", "e"}}}),
	"pull_policy":       oneOf("always", "if_not_present", "every_2d"),
	"read_only":         oneOf(true),
	"restart":           oneOf("no", "on-failure:3"),
	"scale":             oneOf(0),
	"secrets":           oneOf([]any{"s"}, []any{map[string]any{"source": "s", "target": "t", "mode": "0400"}}),
	"security_opt":      oneOf([]any{"no-new-privileges:true", "label=a:b"}),
	"shm_size":          oneOf("64M", 1024),
	"stdin_open":        oneOf(true),
	"stop_grace_period": duration,
	"storage_opt":       oneOf(map[string]any{"size": "1G"}),
	"sysctls":           oneOf(map[string]any{"net.a": 1}, []any{"net.b=2"}),
	"tmpfs":             oneOf("/t", []any{"/t:size=1m,mode=755"}),
	"ulimits":           oneOf(map[string]any{"nofile": map[string]any{"soft": 10, "hard": 20}, "nproc": -1, "core": 0}),
	"user":              anyOf(text()),
	"volumes": oneOf([]any{"vol:/a", "./b:/b:ro,z", "/anon", "/c:/c:rshared", "~/h:/h"}, []any{
		map[string]any{"type": "bind", "source": "./x", "target": "/x"},
		map[string]any{"type": "bind", "source": "./x", "target": "/y", "bind": map[string]any{"create_host_path": false, "propagation": "rslave"}},
		map[string]any{"type": "volume", "source": "vol", "target": "/z", "volume": map[string]any{"nocopy": true, "subpath": "s"}},
		map[string]any{"type": "tmpfs", "target": "/t2", "tmpfs": map[string]any{"size": "1m", "mode": 0o1777}},
		map[string]any{"type": "image", "source": "img", "target": "/i", "image": map[string]any{"subpath": "p"}}}),
	"volumes_from": oneOf([]any{"base:ro", "container:c"}),
	"working_dir":  anyOf(text()),
	"x-own":        rapid.OneOf(texts(), anyOf(text()), oneOf(1, 1.5, true, nil, []any{map[string]any{"x-y": 1}})),
}

// projectText draws a compose file. $ is doubled wherever it was drawn.
func projectText(t *rapid.T) string {
	service := object(serviceKeys)
	services := map[string]any{"base": map[string]any{"image": "base"}}
	for _, name := range []string{"web", "a.b-c_d"} {
		s := service.Draw(t, name).(map[string]any)
		s["image"] = "img:" + rapid.StringMatching(`[a-z0-9]{1,5}`).Draw(t, "tag")
		if s["networks"] == nil && rapid.Bool().Draw(t, "mode?") {
			s["network_mode"] = rapid.SampledFrom([]string{"host", "none", "service:base"}).Draw(t, "mode")
		}
		services[name] = s
	}
	model := map[string]any{
		"services": services,
		"networks": map[string]any{"n": rapid.OneOf(oneOf(nil, map[string]any{"external": true, "name": "ext"}), object(map[string]*rapid.Generator[any]{
			"driver": oneOf("bridge"), "driver_opts": oneOf(map[string]any{"a": 1}), "internal": oneOf(true), "labels": texts(), "enable_ipv6": oneOf(false, true),
			"ipam": oneOf(map[string]any{"config": []any{map[string]any{"subnet": "10.9.0.0/24", "gateway": "10.9.0.1", "aux_addresses": map[string]any{"h": "10.9.0.9"}}}})})).Draw(t, "network")},
		"volumes": map[string]any{"vol": rapid.OneOf(oneOf(nil, map[string]any{"external": true}), object(map[string]*rapid.Generator[any]{
			"driver": oneOf("local"), "driver_opts": oneOf(map[string]any{"type": "tmpfs", "o": "size=1"}), "labels": texts(), "x-v": anyOf(text())})).Draw(t, "volume")},
		"secrets": map[string]any{"s": rapid.SampledFrom([]any{map[string]any{"file": "content"}, map[string]any{"environment": "PASS"}}).Draw(t, "secret")},
		"configs": map[string]any{"c": rapid.OneOf(oneOf(map[string]any{"file": "content"}, map[string]any{"environment": "PASS"}),
			rapid.Map(text(), func(s string) any { return map[string]any{"content": s} })).Draw(t, "config")},
		"x-top": rapid.OneOf(texts(), anyOf(text())).Draw(t, "x-top"),
	}
	data, err := json.Marshal(model) // yaml.v3 writes some of these strings wrongly
	if err != nil {
		t.Fatal(err)
	}
	return strings.ReplaceAll(string(data), "$", "$$")
}

// TestRoundTrip: what is encoded is decoded to the same project, whose
// encoding is the same.
func TestRoundTrip(t *testing.T) {
	notRacing(t)
	root := t.TempDir()
	n, loaded := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		dir := filepath.Join(root, fmt.Sprint(n))
		for name, content := range map[string]string{
			"compose.yaml": projectText(t),
			"e.env":        "FROM_FILE=a\nQUOTED='b $c'\n",
			"content":      string(rapid.SliceOf(rapid.Byte()).Draw(t, "content")),
		} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		p, err := Load(context.Background(), Source{WorkDir: dir, Profiles: []string{"on"}, Environ: []string{"PASS=" + text().Draw(t, "pass")}})
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Fatalf("more than one line: %v", err)
			}
			return // drawn badly: counted below
		}
		loaded++
		sameProject(t, p)
	})
	if loaded*2 < n {
		t.Errorf("only %d of %d drawn projects load: the property says little", loaded, n)
	}
	t.Logf("%d of %d drawn projects load", loaded, n)
}

// TestRoundTripStrings: any string survives, wherever it stands.
func TestRoundTripStrings(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		value, key := text().Draw(t, "value"), "k"+text().Draw(t, "key")
		if rapid.Bool().Draw(t, "extension-like") {
			key = "x-" + rapid.StringMatching(`[a-z0-9_./-]{0,6}`).Draw(t, "name")
		}
		sameProject(t, &Project{
			Name: "x", WorkingDir: value, ComposeFiles: []string{value},
			Services: Services{"a": {Name: "a", Extensions: Extensions{"x-a": map[string]any{key: value}}, ContainerSpec: types.ContainerSpec{
				Image: "i", Environment: MappingWithEquals{key: &value, "unset": nil}, Command: ShellCommand{value, key}, Entrypoint: ShellCommand{},
				Labels: Labels{key: value}, Annotations: Mapping{key: value}, User: value,
			}}},
			Configs: Configs{"c": {Content: value, Labels: Labels{key: value}}},
		})
	})
}
