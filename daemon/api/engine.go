package api

import (
	"context"
	"io"

	"gantry/network"
	"gantry/runtime"
	"gantry/runtime/image"
	"gantry/runtime/keeper"
	"gantry/runtime/logs"
	"gantry/runtime/spec"
	"gantry/runtime/volume"

	"github.com/opencontainers/go-digest"
)

// Engine is what the calls of Docker's API are answered from; *runtime.Engine
// is one. A reference (ref) is a name, an id or an unambiguous beginning of an
// id. Errors carry their class.
type Engine interface {
	Containers
	Execs
	Images
	Registries
	Networks
	Volumes

	// Events calls each for every event of the query in order.
	Events(ctx context.Context, q runtime.EventQuery, each func(runtime.Event) error) error
	// Host is what is known of the machine.
	Host() spec.Host
	// Warnings say what on the machine keeps packets of containers from their
	// way, a sentence each.
	Warnings() []string
}

// Containers is the life of containers.
type Containers interface {
	List() []runtime.Container // the newest first
	Inspect(ref string) (runtime.Container, error)
	Create(ctx context.Context, name string, c spec.Config) (runtime.Container, error)
	Start(ctx context.Context, ref string) error
	Stop(ctx context.Context, ref string, o runtime.StopOptions) error
	Restart(ctx context.Context, ref string, o runtime.StopOptions) error
	Kill(ctx context.Context, ref, signal string) error
	Pause(ctx context.Context, ref string) error
	Unpause(ctx context.Context, ref string) error
	Rename(ctx context.Context, ref, name string) error
	Update(ctx context.Context, ref string, o runtime.UpdateOptions) error
	Remove(ctx context.Context, ref string, o runtime.RemoveOptions) error
	Wait(ctx context.Context, ref, condition string, watching func()) (runtime.Waited, error)
	Logs(ctx context.Context, ref string, q logs.Query, each func(logs.Entry) error) error
	Attach(ctx context.Context, ref string, o runtime.AttachOptions) error
	Resize(ctx context.Context, ref string, width, height uint16) error
	Stats(ctx context.Context, ref string) (keeper.Stats, error)
	Top(ctx context.Context, ref string) ([]runtime.Process, error)
	Size(ctx context.Context, ref string) (runtime.Sizes, error)
	LogSize(ref string) (int64, error)
	StatPath(ctx context.Context, ref, path string) (runtime.PathStat, error)
	GetArchive(ctx context.Context, ref, path string) (runtime.PathStat, io.ReadCloser, error)
	PutArchive(ctx context.Context, ref, path string, o runtime.PutOptions, archive io.Reader) error
	ExportContainer(ctx context.Context, ref string) (io.ReadCloser, error)
	Changes(ctx context.Context, ref string) ([]runtime.Change, error)
	PruneContainers(ctx context.Context, want func(runtime.Container) bool) (ids []string, bytes int64, err error)
}

// Execs are further processes in containers.
type Execs interface {
	ExecCreate(ctx context.Context, ref string, c runtime.ExecConfig) (id string, err error)
	ExecStart(ctx context.Context, id string, s *runtime.ExecStreams) error
	ExecResize(ctx context.Context, id string, width, height uint16) error
	ExecInspect(id string) (runtime.Exec, error)
}

// Images are the images on the machine.
type Images interface {
	ListImages(ctx context.Context) ([]image.Image, error)
	Image(ctx context.Context, ref string) (image.Image, error)
	TagImage(ctx context.Context, ref, name string) error
	RemoveImage(ctx context.Context, ref string, force bool) ([]image.Removed, error)
	LoadImages(ctx context.Context, archive io.Reader, report func(string)) ([]image.Image, error)
	ImportImage(ctx context.Context, archive io.Reader, o image.ImportOptions) (image.Image, error)
	Commit(ctx context.Context, container string, o runtime.CommitOptions) (image.Image, error)
	SaveImages(ctx context.Context, w io.Writer, refs []string) error
	ImageLayers(ctx context.Context) (map[digest.Digest][]image.Layer, error)
	PruneImages(ctx context.Context, want func(image.Image) bool) (gone []image.Removed, bytes int64, err error)
}

// Registries are where images come from and go to.
type Registries interface {
	PullImage(ctx context.Context, o image.PullOptions) (image.Pulled, error)
	PushImage(ctx context.Context, o image.PushOptions) (image.Pushed, error)
	RemoteTags(ctx context.Context, repository string, c image.Credentials) ([]string, error)
	InspectRemote(ctx context.Context, ref string, c image.Credentials) (image.RemoteImage, error)
	Login(ctx context.Context, server string, c image.Credentials) (identity string, err error)
	SearchImages(ctx context.Context, term string, limit int, c image.Credentials) ([]image.Found, error)
}

// Networks are networks and who is on them.
type Networks interface {
	ListNetworks() []network.Network
	Network(ref string) (network.Network, error)
	Attached(networkID string) []network.EndpointInfo
	CreateNetwork(ctx context.Context, s network.Spec) (network.Network, error)
	RemoveNetwork(ctx context.Context, ref string) error
	ConnectNetwork(ctx context.Context, container, network string, e spec.Endpoint) error
	DisconnectNetwork(ctx context.Context, container, network string) error
	PruneNetworks(ctx context.Context, want func(network.Network) bool) (names []string, err error)
}

// Volumes are named volumes.
type Volumes interface {
	ListVolumes() []volume.Volume
	Volume(name string) (volume.Volume, error)
	VolumeUsers(name string) []string
	CreateVolume(ctx context.Context, v volume.Volume) (volume.Volume, error)
	RemoveVolume(ctx context.Context, name string, force bool) error
	VolumeSize(ctx context.Context, name string) (int64, error)
	PruneVolumes(ctx context.Context, want func(volume.Volume) bool) (names []string, bytes int64, err error)
}

// joined is an endpoint of a container.
type joined = network.Joined
