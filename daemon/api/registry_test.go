package api

import (
	"context"
	"encoding/base64"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"gantry/runtime/image"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var pulledDigest = digest.FromString("pulled")

// PullImage pulls two layers, one of which is here.
func (f *fake) PullImage(_ context.Context, o image.PullOptions) (image.Pulled, error) {
	if err := f.note("pull %s %q as %s with %s %s", o.Ref, o.Platform, o.Credentials.Username, o.Credentials.Password, o.Credentials.IdentityToken); err != nil {
		return image.Pulled{}, err
	}
	a, b := digest.FromString("a"), digest.FromString("b")
	for _, p := range []image.Progress{
		{Layer: a, Step: image.Exists}, {Layer: b, Step: image.Waiting}, {Layer: b, Step: image.Downloading, Current: 5, Total: 10},
		{Layer: b, Step: image.Downloading, Current: 6, Total: 10}, // too soon to be told
		{Layer: b, Step: image.Downloading, Current: 10, Total: 10}, {Layer: b, Step: image.Downloaded},
		{Layer: b, Step: image.Extracting}, {Layer: b, Step: image.Complete},
	} {
		o.Report(p)
	}
	return image.Pulled{Name: o.Ref, Digest: pulledDigest, Fresh: !strings.HasSuffix(o.Ref, ":old")}, nil
}

func (f *fake) PushImage(_ context.Context, o image.PushOptions) (image.Pushed, error) {
	if err := f.note("push %s as %s", o.Ref, o.Credentials.Username); err != nil {
		return image.Pushed{}, err
	}
	o.Report(image.Progress{Layer: digest.FromString("a"), Step: image.Pushing, Current: 1, Total: 2})
	o.Report(image.Progress{Layer: digest.FromString("a"), Step: image.Sent})
	return image.Pushed{Name: o.Ref, Tag: "1", Digest: pulledDigest, Size: 7}, nil
}

func (f *fake) RemoteTags(_ context.Context, repository string, _ image.Credentials) ([]string, error) {
	return []string{"1", "2"}, f.note("tags %s", repository)
}

func (f *fake) InspectRemote(_ context.Context, ref string, _ image.Credentials) (image.RemoteImage, error) {
	return image.RemoteImage{Descriptor: ocispec.Descriptor{Digest: pulledDigest, Size: 7, MediaType: ocispec.MediaTypeImageManifest}}, f.note("inspect %s", ref)
}

func (f *fake) Login(_ context.Context, server string, c image.Credentials) (string, error) {
	if c.Password != "hunter2" {
		return "", errdefs.ErrUnauthenticated.WithMessage("unauthorized")
	}
	return "identity", f.note("login %s %s", server, c.Username)
}

func (f *fake) SearchImages(_ context.Context, term string, limit int, _ image.Credentials) ([]image.Found, error) {
	return []image.Found{{Name: "redis", Stars: 9, Official: true}, {Name: "mine/redis", Stars: 1}}, f.note("search %s %d", term, limit)
}

const auth = `{"username":"anna","password":"hunter2"}`

func TestPullImage(t *testing.T) {
	f := newFake()
	host := serve(t, Options{Engine: f})
	for _, head := range []string{
		base64.URLEncoding.EncodeToString([]byte(auth)), base64.RawURLEncoding.EncodeToString([]byte(auth)), base64.StdEncoding.EncodeToString([]byte(auth)),
	} {
		resp, text := sendAs(t, host, "/images/create?fromImage=team/web&tag=1&platform=linux/arm64", head)
		var lines []string
		for line := range strings.Lines(text) {
			lines = append(lines, strings.TrimSpace(line))
		}
		a, b := digest.FromString("a").Encoded()[:12], digest.FromString("b").Encoded()[:12]
		want := []string{
			`{"status":"Pulling from team/web","id":"1"}`,
			`{"status":"Already exists","id":"` + a + `"}`,
			`{"status":"Pulling fs layer","id":"` + b + `"}`,
			`{"status":"Downloading","progressDetail":{"current":5,"total":10},"id":"` + b + `"}`,
			`{"status":"Downloading","progressDetail":{"current":10,"total":10},"id":"` + b + `"}`,
			`{"status":"Download complete","id":"` + b + `"}`,
			`{"status":"Extracting","id":"` + b + `"}`,
			`{"status":"Pull complete","id":"` + b + `"}`,
			`{"status":"Digest: ` + pulledDigest.String() + `"}`,
			`{"status":"Status: Downloaded newer image for docker.io/team/web:1"}`,
		}
		if resp.StatusCode != 200 || !slices.Equal(lines, want) {
			t.Errorf("%d\n%s", resp.StatusCode, strings.Join(lines, "\n"))
		}
	}
	if _, text := sendAs(t, host, "/images/create?fromImage=web:old", ""); !strings.Contains(text, "Image is up to date for") {
		t.Errorf("%s", text)
	}
	sendAs(t, host, "/images/create?fromImage=localhost:5000/web&tag="+pulledDigest.String(), "")
	sendAs(t, host, "/images/create?fromImage=web", "")
	want := []string{
		`pull docker.io/team/web:1 "linux/arm64" as anna with hunter2 `, `pull docker.io/team/web:1 "linux/arm64" as anna with hunter2 `, `pull docker.io/team/web:1 "linux/arm64" as anna with hunter2 `,
		`pull web:old "" as  with  `, `pull localhost:5000/web@` + pulledDigest.String() + ` "" as  with  `,
		`tags web`, `pull docker.io/library/web:1 "" as  with  `, `pull docker.io/library/web:2 "" as  with  `,
	}
	if got := f.noted(); !slices.Equal(got, want) {
		t.Errorf("calls:\n%s", strings.Join(got, "\n"))
	}
	// What is refused before the first message has its status.
	f.fail = errdefs.ErrNotFound.WithMessage("the registry has no such thing")
	if resp, text := sendAs(t, host, "/images/create?fromImage=web&tag=1", ""); resp.StatusCode != 404 || !strings.Contains(text, `{"message":"the registry has no such thing"}`) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	for _, head := range []string{"%%%", base64.URLEncoding.EncodeToString([]byte("hunter2"))} {
		if resp, text := sendAs(t, host, "/images/create?fromImage=web&tag=1", head); resp.StatusCode != 400 || strings.Contains(text, "hunter2") {
			t.Errorf("%d %s", resp.StatusCode, text)
		}
	}
	if resp, _ := sendAs(t, host, "/images/create?fromImage=Not+A+Name&tag=1", ""); resp.StatusCode != 400 {
		t.Errorf("%d", resp.StatusCode)
	}
}

func TestPushImage(t *testing.T) {
	f := newFake()
	host := serve(t, Options{Engine: f})
	resp, text := sendAs(t, host, "/images/example.org/team/web/push?tag=1", base64.URLEncoding.EncodeToString([]byte(auth)))
	for _, want := range []string{
		`{"status":"The push refers to repository [example.org/team/web]"}`, `"status":"Pushing","progressDetail":{"current":1,"total":2}`, `"status":"Pushed"`,
		`{"status":"1: digest: ` + pulledDigest.String() + ` size: 7"}`, `"aux":{"Tag":"1","Digest":"` + pulledDigest.String() + `","Size":7}`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%d: no %s in\n%s", resp.StatusCode, want, text)
		}
	}
	// Without a tag, all that is here.
	sendAs(t, host, "/images/example.org/team/web/push", "")
	if got, want := f.noted(), []string{"push example.org/team/web:1 as anna", "push example.org/team/web:1 as "}; !slices.Equal(got, want) {
		t.Errorf("calls %q, want %q", got, want)
	}
	for path, want := range map[string]int{"/images/none/such/push": 404, "/images/web/push?tag=1&platform=x": 501, "/images/web@" + pulledDigest.String() + "/push": 400} {
		if resp, text := sendAs(t, host, path, ""); resp.StatusCode != want {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
}

func TestAskRegistry(t *testing.T) {
	f := newFake()
	host := serve(t, Options{Engine: f})
	if resp, text := send(t, host, "POST", "/auth", `{"username":"anna","password":"hunter2","serveraddress":"reg:1"}`); resp.StatusCode != 200 ||
		!strings.Contains(text, `"Status":"Login Succeeded"`) || !strings.Contains(text, `"IdentityToken":"identity"`) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if resp, text := send(t, host, "POST", "/auth", `{"username":"anna","password":"wrong","serveraddress":"reg:1"}`); resp.StatusCode != 401 || strings.Contains(text, "wrong") {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	if resp, text := send(t, host, "GET", "/distribution/team/web:1/json", ""); resp.StatusCode != 200 || !strings.Contains(text, `"Platforms":[]`) || !strings.Contains(text, pulledDigest.String()) {
		t.Errorf("%d %s", resp.StatusCode, text)
	}
	for path, want := range map[string]string{
		"/images/search?term=redis":                                   `"name":"mine/redis"`,
		"/images/search?term=redis&limit=1":                           `[{"name":"redis","description":"","star_count":9,"is_official":true,"is_automated":false}]`,
		`/images/search?term=redis&filters={"stars":["2"]}`:           `[{"name":"redis"`,
		`/images/search?term=redis&filters={"is-official":["false"]}`: `[{"name":"mine/redis"`,
		"/images/search":                  "no term",
		"/images/search?term=x&limit=101": "limit",
	} {
		if resp, text := send(t, host, "GET", strings.NewReplacer(`"`, "%22", "{", "%7B", "}", "%7D").Replace(path), ""); !strings.Contains(text, want) {
			t.Errorf("%s: %d %s", path, resp.StatusCode, text)
		}
	}
	if got, want := f.noted(), []string{"login reg:1 anna", "inspect team/web:1"}; !slices.Equal(got[:2], want) {
		t.Errorf("calls %q, want %q", got, want)
	}
}

// sendAs posts with credentials in the header.
func sendAs(t *testing.T, host, path, credentials string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://x"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Registry-Auth", credentials)
	resp, err := plain(host).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp, strings.TrimSpace(string(text))
}
