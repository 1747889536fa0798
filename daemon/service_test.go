package daemon

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gantry/compose"
	"gantry/runtime"
	"gantry/runtime/spec"
	"gantry/scheduler"
)

// everything is a service in which no pointer is nil and no list is empty, made
// of what gantry honours: whatever a Compose file can say has its place in it.
func everything() compose.Service {
	s := compose.Service{Name: "a"}
	s.Image = "busybox"
	fillIn(reflect.ValueOf(&s).Elem(), 0)
	s.Networks = map[string]*compose.ServiceNetwork{"default": {}}
	s.DependsOn = compose.DependsOn{"b": {Condition: compose.ConditionStarted, Required: true}}
	s.Ports = []compose.ServicePort{{Target: 80}}
	s.Volumes = []compose.ServiceVolume{
		{Type: compose.VolumeTypeBind, Source: "/src", Target: "/bind", Bind: &compose.VolumeBind{}},
		{Type: compose.VolumeTypeVolume, Source: "data", Target: "/volume", Volume: &compose.VolumeOptions{}},
		{Type: compose.VolumeTypeTmpfs, Target: "/tmpfs", Tmpfs: &compose.VolumeTmpfs{}},
	}
	s.Secrets = []compose.ServiceSecret{{Source: "s"}}
	s.Configs = []compose.ServiceConfig{{Source: "c"}}
	s.Devices = []compose.Device{{Source: "/dev/null", Target: "/dev/null"}}
	s.Ulimits = map[string]*compose.Ulimit{"nofile": {}}
	s.BlkioConfig.WeightDevice = []compose.WeightDevice{{}}
	for _, list := range []*[]compose.ThrottleDevice{&s.BlkioConfig.DeviceReadBps, &s.BlkioConfig.DeviceReadIOps, &s.BlkioConfig.DeviceWriteBps, &s.BlkioConfig.DeviceWriteIOps} {
		*list = []compose.ThrottleDevice{{}}
	}
	s.Deploy.RestartPolicy.Condition = "on-failure"
	// Refused or meant for others as they stand; see elsewhere and refused.
	s.Build, s.Provider, s.CredentialSpec, s.Extends, s.Develop = nil, nil, nil, nil, nil
	s.Gpus, s.Models, s.PreStart, s.PostStart, s.PreStop, s.Umask = nil, nil, nil, nil, nil, nil
	s.EnvFiles = nil
	s.Deploy.Resources.Limits.Devices, s.Deploy.Resources.Reservations.Devices = nil, nil
	s.Deploy.Resources.Limits.GenericResources, s.Deploy.Resources.Reservations.GenericResources = nil, nil
	return s
}

// fillIn makes structs of nil pointers, so that fields below are reached.
func fillIn(v reflect.Value, depth int) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Field(i).CanSet() {
				fillIn(v.Field(i), depth+1)
			}
		}
	case reflect.Pointer:
		if v.Type().Elem().Kind() == reflect.Struct && v.IsNil() && depth < 8 {
			v.Set(reflect.New(v.Type().Elem()))
			fillIn(v.Elem(), depth+1)
		}
	}
}

// elsewhere are the attributes of a service that its container does not show,
// and who reads them.
var elsewhere = map[string]string{
	"ContainerName":                         "names the container; see scheduler.ContainerName",
	"Profiles":                              "select services when the project is loaded",
	"Extends":                               "resolved when the project is loaded",
	"EnvFiles":                              "resolved into Environment",
	"LabelFiles":                            "resolved into Labels",
	"DependsOn":                             "the scheduler's graph",
	"Scale":                                 "the scheduler's replicas",
	"Deploy.Replicas":                       "the scheduler's replicas",
	"Deploy.UpdateConfig.Delay":             "the scheduler's rollout",
	"Deploy.UpdateConfig.FailureAction":     "the scheduler's rollout",
	"Deploy.UpdateConfig.MaxFailureRatio":   "the scheduler's rollout",
	"Deploy.UpdateConfig.Order":             "the scheduler's rollout",
	"Deploy.UpdateConfig.Parallelism":       "the scheduler's rollout",
	"Deploy.RollbackConfig.Delay":           "the scheduler's rollout",
	"Deploy.RollbackConfig.FailureAction":   "the scheduler's rollout",
	"Deploy.RollbackConfig.MaxFailureRatio": "the scheduler's rollout",
	"Deploy.RollbackConfig.Monitor":         "the scheduler's rollout",
	"Deploy.RollbackConfig.Order":           "the scheduler's rollout",
	"Deploy.RollbackConfig.Parallelism":     "the scheduler's rollout",
	"Image":                                 "the scheduler fixes it by its id",
	"Labels":                                "part of scheduler.ContainerLabels",
	"CustomLabels":                          "not in files; the loader's own use",
	"Build":                                 "read by who builds",
	"Dockerfile":                            "read by who builds",
	"Develop":                               "read by who watches files",
	"Attach":                                "read by the client that attaches",
	"Links":                                 "the scheduler's graph; other names are refused",
	"Volumes.Consistency":                   "means nothing on Linux",
	"Volumes.Bind.SELinux":                  "asks for labels, and gantry labels nothing",
	"Ports.Name":                            "is for readers",
	"Ports.AppProtocol":                     "is for readers",
	"Deploy.Resources.Limits.Devices":       "the schema has it in reservations alone",
	"Deploy.Resources.Limits.GenericResources": "the schema has it in reservations alone",
	"Deploy.Resources.Reservations.Pids":       "the schema has it in limits alone",
}

// samples are values for attributes that do not take any.
var samples = map[string]any{
	"Restart":                          "always",
	"Networks.UseServiceNameAlias":     false,
	"EnableIPv4":                       false,
	"Deploy.RestartPolicy.Condition":   "any",
	"Deploy.RestartPolicy.MaxAttempts": uint64(3),
}

// TestEveryAttribute sets each attribute compose-go knows of a service, one at
// a time, and looks whether it is honoured (the container's configuration is
// another), refused or noted. One that is none of these is silently ignored. A
// new attribute of the Compose specification fails here until it has its place.
func TestEveryAttribute(t *testing.T) {
	ignored := map[string]bool{} // by path; one use of an attribute is enough
	lone := everything()
	lone.Deploy = nil // outranks older attributes
	for _, s := range []compose.Service{everything(), lone} {
		tryEach(t, s, ignored)
	}
	for _, path := range slices.Sorted(maps.Keys(ignored)) {
		if _, known := elsewhere[path]; ignored[path] && !known {
			t.Errorf("%s is silently ignored: honour it, refuse it in compose.Unsupported or name it in compose.Notes", path)
		}
	}
	for path := range elsewhere {
		if !ignored[path] {
			t.Errorf("%s is not ignored or does not exist any more: take it from the list", path)
		}
	}
}

func tryEach(t *testing.T, s compose.Service, ignored map[string]bool) {
	base, ok := told(t, s)
	if !ok {
		t.Fatalf("the service to begin with is refused: %s", base)
	}
	walk(reflect.ValueOf(&s).Elem(), "", func(path string, v reflect.Value) {
		if strings.HasSuffix(path, "Extensions") {
			return
		}
		before := reflect.New(v.Type()).Elem()
		before.Set(v)
		defer v.Set(before)
		v.Set(sample(t, path, v))
		if now, _ := told(t, s); now != base {
			ignored[path] = false
		} else if _, ok := ignored[path]; !ok {
			ignored[path] = true
		}
	})
}

// TestEveryAttributeOfObjects is the same for networks and volumes.
func TestEveryAttributeOfObjects(t *testing.T) {
	known := map[string]string{
		"Name":         "names the object; see scheduler.NetworkName",
		"External":     "the scheduler makes none",
		"Labels":       "part of the labels the scheduler gives",
		"CustomLabels": "not in files; the loader's own use",
	}
	try := func(object any, told func() string) {
		base := told()
		walk(reflect.ValueOf(object).Elem(), "", func(path string, v reflect.Value) {
			if strings.HasSuffix(path, "Extensions") || known[path] != "" {
				return
			}
			before := reflect.New(v.Type()).Elem()
			before.Set(v)
			defer v.Set(before)
			v.Set(sample(t, path, v))
			if told() == base {
				t.Errorf("%T: %s is silently ignored", object, path)
			}
		})
	}
	n := compose.Network{EnableIPv4: new(true), EnableIPv6: new(false), Ipam: compose.IPAM{Config: []*compose.IPAMPool{{Subnet: "10.7.0.0/24"}}}}
	try(&n, func() string {
		s, err := networkSpec(scheduler.NetworkSpec{Name: "n", Config: n})
		p := &compose.Project{Name: "p", Networks: compose.Networks{"n": n}}
		return fmt.Sprintf("%+v %v %v", s, err, compose.Unsupported(p))
	})
	v := compose.Volume{}
	try(&v, func() string {
		p := &compose.Project{Name: "p", Volumes: compose.Volumes{"v": v}}
		return fmt.Sprintf("%+v %v", volumeSpec(scheduler.VolumeSpec{Name: "v", Config: v}), compose.Unsupported(p))
	})
}

// told is all that comes of a service: its container, or the refusals and notes.
func told(t *testing.T, s compose.Service) (text string, honoured bool) {
	t.Helper()
	p := &compose.Project{Name: "p", WorkingDir: "/",
		Services: compose.Services{"a": s, "b": {Name: "b"}},
		Networks: compose.Networks{"default": {Name: "p_default"}}, Volumes: compose.Volumes{"data": {Name: "p_data"}},
		Secrets: compose.Secrets{"s": {Content: "x"}}, Configs: compose.Configs{"c": {Content: "x"}}}
	c, err := containerConfig(scheduler.RunSpec{Project: p, Service: &s, Number: 1, Networks: []string{"default"}, Joins: map[string]string{"b": "p-b-1"}})
	data, jerr := json.Marshal(c)
	if jerr != nil {
		t.Fatal(jerr)
	}
	refused := compose.Unsupported(p)
	return fmt.Sprintf("%s %v %v %v", data, err, refused, compose.Notes(p)), err == nil && len(refused) == 0
}

// walk visits the attributes below v.
func walk(v reflect.Value, path string, visit func(string, reflect.Value)) {
	t := v.Type()
	switch {
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			f := t.Field(i)
			switch {
			case !f.IsExported():
			case f.Anonymous:
				walk(v.Field(i), path, visit)
			default:
				walk(v.Field(i), strings.TrimPrefix(path+"."+f.Name, "."), visit)
			}
		}
	case v.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Struct && !v.IsNil():
		walk(v.Elem(), path, visit)
	case v.Kind() == reflect.Slice && v.Len() > 0 && t.Elem().Kind() == reflect.Struct:
		for i := range v.Len() {
			walk(v.Index(i), path, visit)
		}
	case v.Kind() == reflect.Map && v.Len() > 0 && t.Elem().Kind() == reflect.Pointer:
		for _, k := range v.MapKeys() {
			walk(v.MapIndex(k), path, visit)
		}
	default:
		visit(path, v)
	}
}

// sample is another value than v's.
func sample(t *testing.T, path string, v reflect.Value) reflect.Value {
	typ := v.Type()
	if s, ok := samples[path]; ok {
		x := reflect.ValueOf(s)
		if typ.Kind() == reflect.Pointer {
			p := reflect.New(typ.Elem())
			p.Elem().Set(x.Convert(typ.Elem()))
			return p
		}
		return x.Convert(typ)
	}
	x := reflect.New(typ).Elem()
	some(t, path, x)
	return x
}

func some(t *testing.T, path string, x reflect.Value) {
	switch x.Kind() {
	case reflect.String:
		x.SetString("7")
	case reflect.Bool:
		x.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		x.SetInt(7)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		x.SetUint(7)
	case reflect.Float32, reflect.Float64:
		x.SetFloat(7)
	case reflect.Pointer:
		x.Set(reflect.New(x.Type().Elem()))
		some(t, path, x.Elem())
	case reflect.Slice:
		x.Set(reflect.MakeSlice(x.Type(), 1, 1))
		some(t, path, x.Index(0))
	case reflect.Map:
		x.Set(reflect.MakeMap(x.Type()))
		e := reflect.New(x.Type().Elem()).Elem()
		some(t, path, e)
		k := reflect.New(x.Type().Key()).Elem()
		k.SetString("7")
		x.SetMapIndex(k, e)
	case reflect.Struct:
		for i := range x.NumField() {
			if f := x.Field(i); f.CanSet() && x.Type().Field(i).Name != "Extensions" {
				some(t, path, f)
			}
		}
	case reflect.Interface:
		x.Set(reflect.ValueOf("7").Convert(reflect.TypeFor[string]()))
	default:
		t.Fatalf("%s: no sample for %s", path, x.Type())
	}
}

// TestRestartPolicy: that of deploy outranks the older key.
func TestRestartPolicy(t *testing.T) {
	three, minute := uint64(3), compose.Duration(time.Minute)
	for _, c := range []struct {
		restart string
		deploy  *compose.DeployRestart
		want    spec.RestartPolicy
	}{
		{"", nil, spec.RestartPolicy{}},
		{"on-failure:2", nil, spec.RestartPolicy{Name: spec.RestartOnFailure, MaxRetries: 2}},
		{"always", &compose.DeployRestart{Condition: "none"}, spec.RestartPolicy{Name: spec.RestartNo}},
		{"no", &compose.DeployRestart{}, spec.RestartPolicy{Name: spec.RestartAlways, Unhealthy: true}},
		{"no", &compose.DeployRestart{Condition: "on-failure", MaxAttempts: &three}, spec.RestartPolicy{Name: spec.RestartOnFailure, MaxRetries: 3, Unhealthy: true}},
		{"no", &compose.DeployRestart{Condition: "on-failure", MaxAttempts: &three, Window: &minute}, spec.RestartPolicy{Name: spec.RestartOnFailure, Attempts: 3, Window: time.Minute, Unhealthy: true}},
		{"no", &compose.DeployRestart{Condition: "any", MaxAttempts: &three, Delay: &minute}, spec.RestartPolicy{Name: spec.RestartAlways, Attempts: 3, Delay: time.Minute, Unhealthy: true}},
	} {
		s := compose.Service{Restart: c.restart, Deploy: &compose.Deploy{RestartPolicy: c.deploy}}
		if got, err := restartPolicy(&s); err != nil || got != c.want {
			t.Errorf("restart %q, deploy %+v: %+v, %v; want %+v", c.restart, c.deploy, got, err, c.want)
		}
	}
}

// TestIsReplica: a name does not make a container the replica that is wanted.
func TestIsReplica(t *testing.T) {
	labels := map[string]string{scheduler.LabelProject: "p", scheduler.LabelService: "a", scheduler.LabelNumber: "2",
		scheduler.LabelHash: "h", scheduler.LabelUses: "u", scheduler.LabelGeneration: "1"}
	want := scheduler.RunSpec{Labels: labels, ImageID: "sha256:1"}
	with := func(key, value, image string) runtime.Container {
		l := maps.Clone(labels)
		l[key] = value
		return runtime.Container{Config: spec.Config{Labels: l, ImageID: image}}
	}
	if !isReplica(with("user", "x", "sha256:1"), want) {
		t.Error("the replica itself is not taken for it")
	}
	for _, c := range []runtime.Container{
		with(scheduler.LabelNumber, "3", "sha256:1"), with(scheduler.LabelService, "b", "sha256:1"), with(scheduler.LabelHash, "x", "sha256:1"),
		with(scheduler.LabelGeneration, "0", "sha256:1"), with(scheduler.LabelOneOff, "True", "sha256:1"), with("user", "x", "sha256:2"),
	} {
		if isReplica(c, want) {
			t.Errorf("%v is taken for it", c.Config)
		}
	}
}
