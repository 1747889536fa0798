package api

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"

	"gantry/network"

	"github.com/containerd/errdefs"
	dockernet "github.com/moby/moby/api/types/network"
)

// predefined are networks every Docker has and clients look for: "host" and
// "none" are no networks of ours but ways to do without; "bridge" is one, made
// when it is first used and shown before.
func predefined() []network.Network {
	builtin := func(name, driver string) network.Network {
		id := sha256.Sum256([]byte("network " + name)) // clients show and ask for its beginning
		return network.Network{ID: hex.EncodeToString(id[:]), Spec: network.Spec{Name: name, Driver: driver}}
	}
	return []network.Network{
		builtin(dockernet.NetworkHost, "host"),
		builtin(dockernet.NetworkNone, "null"),
		builtin(network.DefaultNetwork, "bridge"),
	}
}

// networks are those that exist and those that are always there.
func (s *server) networks() []network.Network {
	all := s.Engine.ListNetworks()
	for _, p := range predefined() {
		if !slices.ContainsFunc(all, func(n network.Network) bool { return n.Name == p.Name }) {
			all = append(all, p)
		}
	}
	return all
}

// network finds one of them by its name, its id or the beginning of its id.
func (s *server) network(ref string) (network.Network, error) {
	n, err := s.Engine.Network(ref)
	if !errdefs.IsNotFound(err) {
		return n, err
	}
	for _, p := range s.networks() {
		if p.Name == ref || strings.HasPrefix(p.ID, ref) {
			return p, nil
		}
	}
	return n, err
}

func isPredefined(name string) bool {
	return name == dockernet.NetworkBridge || name == dockernet.NetworkHost || name == dockernet.NetworkNone
}

func (s *server) networkList(_ context.Context, w http.ResponseWriter, r *http.Request) error {
	f, err := readFilters(r.URL.Query(), "id", "name", "driver", "label", "label!", "scope", "type", "dangling")
	if err != nil {
		return err
	}
	dangling, only, err := f.boolean("dangling")
	if err != nil {
		return err
	}
	used := map[string]bool{}
	for _, c := range s.Engine.List() {
		for _, name := range networkNames(c) {
			used[name] = true
		}
	}
	for _, v := range f["type"] {
		if v != "custom" && v != "builtin" {
			return invalid("invalid filter: 'type'='%s': it is custom or builtin", v)
		}
	}
	out := []dockernet.Summary{}
	for _, n := range s.networks() {
		kind := "custom"
		if isPredefined(n.Name) {
			kind = "builtin"
		}
		switch {
		case !f.any("id", func(v string) bool { return strings.HasPrefix(n.ID, v) }):
		case !f.any("name", func(v string) bool { return strings.Contains(n.Name, v) }):
		case !f.is("driver", n.Driver), !f.is("scope", "local"), !f.is("type", kind), !f.labels(n.Labels):
		case only && dangling != (kind == "custom" && !used[n.Name] && !used[n.ID]):
		default:
			out = append(out, dockernet.Summary{Network: wireNetwork(n)})
		}
	}
	return writeJSON(w, http.StatusOK, out)
}

func (s *server) networkInspect(_ context.Context, w http.ResponseWriter, r *http.Request) error {
	if scope := r.URL.Query().Get("scope"); scope != "" && scope != "local" {
		return notFoundf("network %s not found in scope %s", r.PathValue("id"), scope)
	}
	n, err := s.network(r.PathValue("id"))
	if err != nil {
		return err
	}
	names := map[string]string{}
	for _, c := range s.Engine.List() {
		names[c.ID] = c.Name
	}
	return writeJSON(w, http.StatusOK, wireNetworkDetails(n, s.Engine.Attached(n.ID), names))
}

func (s *server) networkCreate(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	var req networkRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	spec, err := req.spec()
	if err != nil {
		return err
	}
	n, err := s.Engine.CreateNetwork(ctx, spec)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, dockernet.CreateResponse{ID: n.ID})
}

func (s *server) networkRemove(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	ref := r.PathValue("id")
	n, err := s.network(ref)
	if err != nil {
		return err
	}
	if isPredefined(n.Name) {
		return forbidden("%s is a pre-defined network and cannot be removed", n.Name)
	}
	if err := s.Engine.RemoveNetwork(ctx, ref); err != nil {
		return err
	}
	return noContent(w)
}

func (s *server) networkConnect(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	var req dockernet.ConnectRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Container == "" {
		return invalid("no container given to connect")
	}
	ref := r.PathValue("id")
	n, err := s.network(ref)
	if err != nil {
		return err
	}
	switch n.Name {
	case dockernet.NetworkHost:
		return invalid("container cannot be disconnected from host network or connected to host network")
	case dockernet.NetworkNone:
		return invalid("container cannot be connected to multiple networks with one of the networks in private (none) mode")
	}
	e, err := endpoint(ref, req.EndpointConfig)
	if err != nil {
		return err
	}
	if err := s.Engine.ConnectNetwork(ctx, req.Container, ref, e); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *server) networkDisconnect(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	var req dockernet.DisconnectRequest
	if err := readJSON(w, r, &req); err != nil {
		return err
	}
	if req.Container == "" {
		return invalid("no container given to disconnect")
	}
	ref := r.PathValue("id")
	if n, err := s.network(ref); err == nil && n.Name == dockernet.NetworkHost {
		return invalid("container cannot be disconnected from host network or connected to host network")
	}
	if err := s.Engine.DisconnectNetwork(ctx, req.Container, ref); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}
