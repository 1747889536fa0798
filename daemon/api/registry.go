package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"gantry/runtime/image"

	"github.com/distribution/reference"
	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/moby/api/types/registry"
)

// credentials are the caller's, as it sends them with each request. They go
// with the request and are kept nowhere.
func credentials(r *http.Request) (image.Credentials, error) {
	text := r.Header.Get(registry.AuthHeader)
	if text == "" {
		return image.Credentials{}, nil
	}
	// With or without padding, and in either alphabet: clients differ.
	text = strings.TrimRight(strings.NewReplacer("+", "-", "/", "_").Replace(text), "=")
	data, err := base64.RawURLEncoding.DecodeString(text)
	var c registry.AuthConfig
	if err == nil && len(data) > 0 {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		return image.Credentials{}, invalid("the header %s is not JSON in base64url", registry.AuthHeader) // without what it says
	}
	return shown(c)
}

// shown are credentials in the form of a client's configuration.
func shown(c registry.AuthConfig) (image.Credentials, error) {
	out := image.Credentials{Username: c.Username, Password: c.Password, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}
	if c.Auth != "" && c.Username == "" {
		data, err := base64.StdEncoding.DecodeString(c.Auth)
		name, password, ok := strings.Cut(string(data), ":")
		if err != nil || !ok {
			return image.Credentials{}, invalid("the field auth of the credentials is not NAME:PASSWORD in base64")
		}
		out.Username, out.Password = name, strings.TrimRight(password, "\x00")
	}
	return out, nil
}

// imagePull brings an image, or without a tag all of a repository.
func (s *server) imagePull(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	c, err := credentials(r)
	if err != nil {
		return err
	}
	ref, tag := q.Get("fromImage"), q.Get("tag")
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return invalid("image name %q: %v", ref, err)
	}
	switch {
	case strings.Contains(tag, ":"):
		ref = reference.TrimNamed(named).String() + "@" + tag
	case tag != "":
		ref = reference.TrimNamed(named).String() + ":" + tag
	}
	out := &progress{w: w}
	if tag != "" || !reference.IsNameOnly(named) {
		return out.end(s.pullOne(ctx, out, ref, q.Get("platform"), c))
	}
	tags, err := s.Engine.RemoteTags(ctx, ref, c)
	if err != nil {
		return err
	}
	if len(tags) == 0 {
		return notFoundf("the registry has no tag of %s", ref)
	}
	for _, tag := range tags {
		if err := s.pullOne(ctx, out, named.Name()+":"+tag, q.Get("platform"), c); err != nil {
			return out.end(err)
		}
	}
	return nil
}

func (s *server) pullOne(ctx context.Context, out *progress, ref, platform string, c image.Credentials) error {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return invalid("image name %q: %v", ref, err)
	}
	named = reference.TagNameOnly(named)
	id := "latest"
	if t, ok := named.(reference.Tagged); ok {
		id = t.Tag()
	} else if d, ok := named.(reference.Digested); ok {
		id = d.Digest().String()
	}
	// Docker says this before anything can be wrong; here a name that is
	// refused still gets a status of its own.
	begin := sync.OnceFunc(func() {
		_ = out.send(jsonstream.Message{Status: "Pulling from " + reference.Path(named), ID: id})
	})
	show := &layers{out: out, last: map[string]time.Time{}}
	p, err := s.Engine.PullImage(ctx, image.PullOptions{Ref: ref, Platform: platform, Credentials: c, Report: func(p image.Progress) {
		begin()
		show.tell(p, pullWords)
	}})
	if err != nil {
		return err
	}
	begin()
	status := "Status: Image is up to date for "
	if p.Fresh {
		status = "Status: Downloaded newer image for "
	}
	_ = out.send(jsonstream.Message{Status: "Digest: " + p.Digest.String()})
	return out.send(jsonstream.Message{Status: status + p.Name})
}

// Docker's words for the steps of a layer, which clients show and some read.
var (
	pullWords = map[image.Step]string{
		image.Waiting: "Pulling fs layer", image.Downloading: "Downloading", image.Downloaded: "Download complete",
		image.Extracting: "Extracting", image.Complete: "Pull complete", image.Exists: "Already exists",
	}
	pushWords = map[image.Step]string{
		image.Waiting: "Preparing", image.Pushing: "Pushing", image.Sent: "Pushed",
		image.Exists: "Layer already exists", image.Mounted: "Mounted from another repository",
	}
)

// layers tells how layers fare, each of them not more often than anybody can
// see.
type layers struct {
	out  *progress
	mu   sync.Mutex
	last map[string]time.Time
}

const tellEvery = 100 * time.Millisecond

func (l *layers) tell(p image.Progress, words map[image.Step]string) {
	m := jsonstream.Message{Status: words[p.Step], ID: p.Layer.Encoded()[:12]}
	if p.Step == image.Downloading || p.Step == image.Pushing {
		l.mu.Lock()
		now := time.Now()
		soon := now.Sub(l.last[m.ID]) < tellEvery && p.Current < p.Total
		if !soon {
			l.last[m.ID] = now
		}
		l.mu.Unlock()
		if soon {
			return
		}
		m.Progress = &jsonstream.Progress{Current: p.Current, Total: p.Total}
	}
	_ = l.out.send(m)
}

// imagePush sends an image, or without a tag all that its repository has here.
func (s *server) imagePush(ctx context.Context, w http.ResponseWriter, r *http.Request, name string) error {
	q := r.URL.Query()
	if q.Get("platform") != "" {
		return unsupported("pushing one platform of an image is not supported: all that is here is pushed")
	}
	c, err := credentials(r)
	if err != nil {
		return err
	}
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return invalid("image name %q: %v", name, err)
	}
	if _, ok := named.(reference.Digested); ok {
		return invalid("image name %q: cannot push a digest reference", name)
	}
	if tag := q.Get("tag"); tag != "" {
		if named, err = reference.WithTag(reference.TrimNamed(named), tag); err != nil {
			return invalid("tag %q: %v", tag, err)
		}
	}
	out := &progress{w: w}
	refs := []string{named.String()}
	if reference.IsNameOnly(named) {
		if refs, err = s.tagsHere(ctx, named); err != nil {
			return err
		}
	}
	for _, ref := range refs {
		if err := s.pushOne(ctx, out, named, ref, c); err != nil {
			return out.end(err)
		}
	}
	return nil
}

// tagsHere are all names of a repository on this machine.
func (s *server) tagsHere(ctx context.Context, repository reference.Named) ([]string, error) {
	all, err := s.Engine.ListImages(ctx)
	if err != nil {
		return nil, err
	}
	var refs []string
	for _, img := range all {
		for _, name := range img.Names {
			if n, err := reference.ParseNormalizedNamed(name); err == nil && n.Name() == repository.Name() {
				refs = append(refs, n.String())
			}
		}
	}
	if len(refs) == 0 {
		return nil, notFoundf("An image does not exist locally with the tag: %s", reference.FamiliarName(repository))
	}
	slices.Sort(refs)
	return refs, nil
}

func (s *server) pushOne(ctx context.Context, out *progress, named reference.Named, ref string, c image.Credentials) error {
	begin := sync.OnceFunc(func() {
		_ = out.send(jsonstream.Message{Status: fmt.Sprintf("The push refers to repository [%s]", named.Name())})
	})
	show := &layers{out: out, last: map[string]time.Time{}}
	p, err := s.Engine.PushImage(ctx, image.PushOptions{Ref: ref, Credentials: c, Report: func(p image.Progress) {
		begin()
		show.tell(p, pushWords)
	}})
	if err != nil {
		return err
	}
	begin()
	if p.Left != "" {
		_ = out.send(jsonstream.Message{Status: fmt.Sprintf("Of the index %s one platform is here: that was pushed", p.Left)})
	}
	_ = out.send(jsonstream.Message{Status: fmt.Sprintf("%s: digest: %s size: %d", p.Tag, p.Digest, p.Size)})
	aux, err := json.Marshal(struct {
		Tag, Digest string
		Size        int64
	}{p.Tag, p.Digest.String(), p.Size})
	if err != nil {
		return err
	}
	return out.send(jsonstream.Message{Progress: &jsonstream.Progress{}, Aux: (*json.RawMessage)(&aux)})
}

// auth checks credentials.
func (s *server) auth(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	var c registry.AuthConfig
	if err := readJSON(w, r, &c); err != nil {
		return err
	}
	creds, err := shown(c)
	if err != nil {
		return err
	}
	token, err := s.Engine.Login(ctx, c.ServerAddress, creds)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, registry.AuthResponse{Status: "Login Succeeded", IdentityToken: token})
}

// distribution looks at an image in its registry.
func (s *server) distribution(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	name, verb := lastElement(r.PathValue("path"))
	if verb != "json" {
		return notFound()
	}
	c, err := credentials(r)
	if err != nil {
		return err
	}
	found, err := s.Engine.InspectRemote(ctx, name, c)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, registry.DistributionInspect{Descriptor: found.Descriptor, Platforms: orNone(found.Platforms)})
}

// imageSearch asks a registry for images.
func (s *server) imageSearch(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	term := q.Get("term")
	if term == "" {
		return invalid("no term given to search for")
	}
	limit := 25
	if text := q.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || n > 100 {
			return invalid("limit %q is outside the range of [1, 100]", text)
		}
		if n > 0 {
			limit = n
		}
	}
	f, err := readFilters(q, "is-official", "is-automated", "stars")
	if err != nil {
		return err
	}
	official, byOfficial, err := f.boolean("is-official")
	if err != nil {
		return err
	}
	automated, byAutomated, err := f.boolean("is-automated")
	if err != nil {
		return err
	}
	stars := 0
	for _, text := range f["stars"] {
		n, err := strconv.Atoi(text)
		if err != nil {
			return invalid("filter stars=%q is not a number", text)
		}
		stars = max(stars, n)
	}
	c, err := credentials(r)
	if err != nil {
		return err
	}
	found, err := s.Engine.SearchImages(ctx, term, limit, c)
	if err != nil {
		return err
	}
	found = slices.DeleteFunc(found, func(i image.Found) bool {
		return byOfficial && i.Official != official || byAutomated && i.Automated != automated || i.Stars < stars
	})
	return writeJSON(w, http.StatusOK, orNone(found[:min(limit, len(found))]))
}
