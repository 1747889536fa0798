// Package compose knows Compose files: how they are found, merged,
// interpolated and checked, and what the project they describe looks like. It
// knows nothing of containers, daemons or time; but for the files a project
// names it reads nothing.
//
// It is the only door to compose-go, whose model the rest of gantry uses under
// the names below.
//
//	files ──Load──► Project ──NewGraph──► Graph      who waits for whom
//	                   │─────Hash────────► string     what counts as changed
//	                   │─────Unsupported─► refusals   what cannot be honoured
//	                   └─────Encode──────► bytes ──Decode──► the same Project
package compose

import (
	"fmt"
	"time"

	"github.com/compose-spec/compose-go/v2/types"
)

// The model of a project, as compose-go has it.
type (
	// Project is a loaded project. It is a value: the functions here return
	// changed copies and leave the one they were given alone.
	Project  = types.Project
	Services = types.Services
	Service  = types.ServiceConfig
	Networks = types.Networks
	Network  = types.NetworkConfig
	Volumes  = types.Volumes
	Volume   = types.VolumeConfig
	Secrets  = types.Secrets
	Secret   = types.SecretConfig
	Configs  = types.Configs
	Config   = types.ConfigObjConfig

	// Parts of a service.
	Build          = types.BuildConfig
	BlkioConfig    = types.BlkioConfig
	WeightDevice   = types.WeightDevice
	ThrottleDevice = types.ThrottleDevice
	DependsOn      = types.DependsOnConfig
	Dependency     = types.ServiceDependency
	Deploy         = types.DeployConfig
	Device         = types.DeviceMapping
	EnvFile        = types.EnvFile
	HealthCheck    = types.HealthCheckConfig
	HostsList      = types.HostsList
	Logging        = types.LoggingConfig
	Placement      = types.Placement
	ServicePort    = types.ServicePortConfig
	Resource       = types.Resource
	Resources      = types.Resources
	DeployRestart  = types.RestartPolicy
	ServiceConfig  = types.ServiceConfigObjConfig
	ServiceNetwork = types.ServiceNetworkConfig
	ServiceSecret  = types.ServiceSecretConfig
	ServiceVolume  = types.ServiceVolumeConfig
	VolumeBind     = types.ServiceVolumeBind
	VolumeOptions  = types.ServiceVolumeVolume
	VolumeTmpfs    = types.ServiceVolumeTmpfs
	ShellCommand   = types.ShellCommand
	Ulimit         = types.UlimitsConfig
	UpdateConfig   = types.UpdateConfig

	// Parts of a network.
	IPAM     = types.IPAMConfig
	IPAMPool = types.IPAMPool

	// Scalars and small collections.
	Duration          = types.Duration
	Extensions        = types.Extensions
	External          = types.External
	FileMode          = types.FileMode
	Labels            = types.Labels
	Mapping           = types.Mapping
	MappingWithEquals = types.MappingWithEquals
	NanoCPUs          = types.NanoCPUs
	Options           = types.Options
	StringList        = types.StringList
	UnitBytes         = types.UnitBytes
)

// What a dependent waits for.
const (
	// ConditionStarted: every replica asked for runs.
	ConditionStarted = types.ServiceConditionStarted
	// ConditionHealthy: every replica asked for is healthy.
	ConditionHealthy = types.ServiceConditionHealthy
	// ConditionCompleted: every replica asked for exited with code 0.
	ConditionCompleted = types.ServiceConditionCompletedSuccessfully
)

// Kinds of a service's volume.
const (
	VolumeTypeBind   = types.VolumeTypeBind
	VolumeTypeVolume = types.VolumeTypeVolume
	VolumeTypeTmpfs  = types.VolumeTypeTmpfs
	VolumeTypeImage  = types.VolumeTypeImage
)

// Pull policies. What else GetPullPolicy of a service gives is the same as
// PullMissing; others are refused by [Unsupported].
const (
	PullAlways  = types.PullPolicyAlways
	PullNever   = types.PullPolicyNever
	PullMissing = types.PullPolicyMissing
	PullBuild   = types.PullPolicyBuild
	PullRefresh = types.PullPolicyRefresh // when it has not been for a time
)

// Prefixes of network_mode, ipc and pid that name another container.
const (
	ServicePrefix   = types.ServicePrefix
	ContainerPrefix = types.ContainerPrefix
)

// PullPolicy is when the image of a service is pulled; every is how old its
// last pull may be, for [PullRefresh].
func PullPolicy(s Service) (policy string, every time.Duration, err error) {
	if s.PullPolicy == PullRefresh && s.PullRefreshAfter != "" {
		s.PullPolicy = "every_" + s.PullRefreshAfter
		s.PullRefreshAfter = ""
	}
	policy, every, err = s.GetPullPolicy()
	switch {
	case err != nil:
		return "", 0, fmt.Errorf("%q is no pull policy (always, missing, if_not_present, never, build, daily, weekly, every_DURATION)", s.PullPolicy)
	case s.PullRefreshAfter != "":
		return "", 0, fmt.Errorf("pull_refresh_after needs pull_policy: refresh, not %q", s.PullPolicy)
	case policy == PullRefresh && every <= 0:
		return "", 0, fmt.Errorf("pull policy %q needs the time after which to pull: pull_refresh_after: 24h", s.PullPolicy)
	case policy == types.PullPolicyIfNotPresent:
		policy = PullMissing
	}
	return policy, every, nil
}

// ImageName is the image a service runs: the one it names or, where it only
// says how to build one, "<project>-<service>".
func ImageName(p *Project, s Service) string {
	if s.Image != "" {
		return s.Image
	}
	return p.Name + "-" + s.Name
}
