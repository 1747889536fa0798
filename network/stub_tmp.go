package network

import (
	"context"
	"errors"
	"net/netip"
)

// Fabric is one daemon's network. All methods may be called from any
// goroutine; changes of different sandboxes do not wait for each other.
type Fabric struct{}

var errStub = errors.New("network: being written")

func Open(ctx context.Context, o Options) (*Fabric, error)                       { return nil, errStub }
func (f *Fabric) Close() error                                                   { return nil }
func (f *Fabric) CreateNetwork(ctx context.Context, s Spec) (Network, error)     { return Network{}, errStub }
func (f *Fabric) RemoveNetwork(ctx context.Context, idOrName string) error       { return errStub }
func (f *Fabric) Network(idOrName string) (Network, error)                       { return Network{}, errStub }
func (f *Fabric) Networks() []Network                                            { return nil }
func (f *Fabric) Attached(networkID string) []EndpointInfo                       { return nil }
func (f *Fabric) Prepare(ctx context.Context, id string) (string, error)         { return "", errStub }
func (f *Fabric) Attach(ctx context.Context, s Sandbox) (Attached, error)        { return Attached{}, errStub }
func (f *Fabric) Detach(ctx context.Context, id string) error                    { return errStub }
func (f *Fabric) Connect(ctx context.Context, id string, e Endpoint) (Joined, error) {
	return Joined{}, errStub
}
func (f *Fabric) Disconnect(ctx context.Context, id, network string) error { return errStub }
func (f *Fabric) SetState(id string, running, ready bool) error            { return errStub }
func (f *Fabric) Publish(ctx context.Context, group string, ports []Port) ([]Binding, error) {
	return nil, errStub
}
func (f *Fabric) Unpublish(ctx context.Context, group string) error       { return errStub }
func (f *Fabric) Bindings(group string) []Binding                         { return nil }
func (f *Fabric) Recover(ctx context.Context, live []Sandbox) error       { return errStub }
func (f *Fabric) HostGateway() netip.Addr                                 { return netip.Addr{} }
func (f *Fabric) Warnings() []string                                      { return nil }
