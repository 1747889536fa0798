package spec

import (
	"encoding/json"
	"runtime"
	"slices"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// seccompArch are the names that profiles give the architectures, by Go's: in
// the rules those of libseccomp, in the list of architectures the kernel's.
var seccompArch = map[string]struct {
	rule string
	arch specs.Arch
}{
	"386":     {"x86", specs.ArchX86},
	"amd64":   {"amd64", specs.ArchX86_64},
	"arm":     {"arm", specs.ArchARM},
	"arm64":   {"arm64", specs.ArchAARCH64},
	"loong64": {"loongarch64", specs.ArchLOONGARCH64},
	"ppc64le": {"ppc64le", specs.ArchPPC64LE},
	"riscv64": {"riscv64", specs.ArchRISCV64},
	"s390x":   {"s390x", specs.ArchS390X},
}

// seccompFor is the filter of a container with the bounding set, nil for none.
//
// Rules of a profile may depend on capabilities, the architecture and the
// kernel. The list of architectures is kept whole: without their entry 32-bit
// programs would be killed.
func seccompFor(c Config, h Host, bounding []string) (*specs.LinuxSeccomp, error) {
	var profile seccomp.Seccomp
	switch {
	case c.Seccomp == unconfined, c.Seccomp == "" && (c.Privileged || !h.Seccomp):
		return nil, nil
	case !h.Seccomp:
		return nil, refuse("security_opt", "seccomp: this kernel has no filters, so the profile cannot hold: say seccomp=unconfined")
	case c.Seccomp == "":
		profile = *seccomp.DefaultProfile()
	default:
		if err := json.Unmarshal([]byte(c.Seccomp), &profile); err != nil {
			return nil, refuse("security_opt", "seccomp: the profile is not valid JSON: %v", err)
		}
		if err := checkProfile(profile); err != nil {
			return nil, err
		}
	}

	here := seccompArch[runtime.GOARCH]
	filter := profile.LinuxSeccomp
	filter.Architectures = slices.Clone(filter.Architectures)
	for _, a := range profile.ArchMap {
		if a.Arch == here.arch {
			filter.Architectures = append(append(filter.Architectures, a.Arch), a.SubArches...)
		}
	}
	for _, rule := range profile.Syscalls {
		if !holds(rule, here.rule, bounding, h.Kernel) {
			continue
		}
		call := rule.LinuxSyscall
		if rule.Name != "" {
			call.Names = []string{rule.Name}
		}
		filter.Syscalls = append(filter.Syscalls, call)
	}
	return &filter, nil
}

// holds says whether a rule's conditions are met: all of its includes, none of
// its excludes.
func holds(rule *seccomp.Syscall, arch string, bounding []string, kernel KernelVersion) bool {
	atLeast := func(v *seccomp.KernelVersion) bool { return kernel.AtLeast(int(v.Kernel), int(v.Major)) }
	if in := rule.Includes; in != nil {
		if len(in.Arches) > 0 && !slices.Contains(in.Arches, arch) {
			return false
		}
		for _, c := range in.Caps {
			if !slices.Contains(bounding, c) {
				return false
			}
		}
		if in.MinKernel != nil && !atLeast(in.MinKernel) {
			return false
		}
	}
	if ex := rule.Excludes; ex != nil {
		if slices.Contains(ex.Arches, arch) {
			return false
		}
		for _, c := range ex.Caps {
			if slices.Contains(bounding, c) {
				return false
			}
		}
		if ex.MinKernel != nil && atLeast(ex.MinKernel) {
			return false
		}
	}
	return true
}

var (
	seccompActions = []specs.LinuxSeccompAction{
		specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno,
		specs.ActTrace, specs.ActAllow, specs.ActLog, specs.ActNotify,
	}
	seccompOperators = []specs.LinuxSeccompOperator{
		specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual,
	}
)

// checkProfile finds what would otherwise fail, or silently filter nothing, at
// the start of the container.
func checkProfile(p seccomp.Seccomp) error {
	const field = "security_opt"
	if p.DefaultAction == "" {
		return refuse(field, "seccomp: the profile has no defaultAction and would filter nothing: give one, or say seccomp=unconfined")
	}
	if !slices.Contains(seccompActions, p.DefaultAction) {
		return refuse(field, "seccomp: the profile's defaultAction %q is unknown", p.DefaultAction)
	}
	if len(p.Architectures) > 0 && len(p.ArchMap) > 0 {
		return refuse(field, "seccomp: the profile has both architectures and archMap: keep one")
	}
	if p.ListenerMetadata != "" && p.ListenerPath == "" {
		return refuse(field, "seccomp: the profile has listenerMetadata but no listenerPath: remove it")
	}
	for i, rule := range p.Syscalls {
		switch {
		case rule == nil:
			return refuse(field, "seccomp: rule %d of the profile is null", i+1)
		case rule.Name != "" && len(rule.Names) > 0:
			return refuse(field, "seccomp: rule %d of the profile has both name and names: keep one", i+1)
		case rule.Name == "" && len(rule.Names) == 0:
			return refuse(field, "seccomp: rule %d of the profile names no system call", i+1)
		case !slices.Contains(seccompActions, rule.Action):
			return refuse(field, "seccomp: rule %d of the profile has the unknown action %q", i+1, rule.Action)
		}
		for _, arg := range rule.Args {
			if !slices.Contains(seccompOperators, arg.Op) {
				return refuse(field, "seccomp: rule %d of the profile has the unknown operator %q", i+1, arg.Op)
			}
			if arg.Index > 5 {
				return refuse(field, "seccomp: rule %d of the profile looks at argument %d: a system call has 0 to 5", i+1, arg.Index)
			}
		}
	}
	return nil
}
