package client

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"
)

// PathStat is what the daemon tells of a path in a container. Change is what a
// container has made different from its image.
type (
	PathStat = container.PathStat
	Change   = container.FilesystemChange
)

const pathStatHeader = "X-Docker-Container-Path-Stat"

func pathStat(resp *http.Response) (PathStat, error) {
	var st PathStat
	text, err := base64.StdEncoding.DecodeString(resp.Header.Get(pathStatHeader))
	if err == nil {
		err = json.Unmarshal(text, &st)
	}
	if err != nil {
		return st, fmt.Errorf("the daemon's words about a path: %w", err)
	}
	return st, nil
}

// StatPath looks at a path in a container. The last element is not followed if
// it is a symbolic link; LinkTarget says where it leads.
func (c *Client) StatPath(ctx context.Context, ref, path string) (PathStat, error) {
	resp, err := c.open(ctx, call{method: http.MethodHead, path: at("containers", ref, "archive"), query: query("path", path), again: true})
	if errdefs.IsNotFound(err) { // a HEAD is answered without words
		return PathStat{}, newError(http.StatusNotFound, "", fmt.Sprintf("container %s has no %s, or is not there", ref, path))
	}
	if err != nil {
		return PathStat{}, err
	}
	resp.Body.Close()
	return pathStat(resp)
}

// GetArchive reads what is at a path in a container as a tar archive, whose
// names begin with PathStat.Name. The caller closes it; a broken one ends with
// an error.
func (c *Client) GetArchive(ctx context.Context, ref, path string) (PathStat, io.ReadCloser, error) {
	resp, err := c.open(ctx, call{method: http.MethodGet, path: at("containers", ref, "archive"), query: query("path", path)})
	if err != nil {
		return PathStat{}, nil, err
	}
	st, err := pathStat(resp)
	if err != nil {
		resp.Body.Close()
		return PathStat{}, nil, err
	}
	return st, resp.Body, nil
}

// PutOptions bend [Client.PutArchive].
type PutOptions struct {
	NoOverwrite bool // refuse to put a file in a directory's place, and the other way round
	ToUser      bool // everything belongs to the container's user, if it has one
}

// PutArchive unpacks a tar archive in a directory of a container.
func (c *Client) PutArchive(ctx context.Context, ref, path string, o PutOptions, archive io.Reader) error {
	return c.do(ctx, call{method: http.MethodPut, path: at("containers", ref, "archive"),
		query: query("path", path, "noOverwriteDirNonDir", flag(o.NoOverwrite), "copyUIDGID", flag(o.ToUser)),
		body:  archive, kind: "application/x-tar"}, nil)
}

// Export reads the filesystem of a container as a tar archive, without what is
// mounted in it. The caller closes it.
func (c *Client) Export(ctx context.Context, ref string) (io.ReadCloser, error) {
	resp, err := c.open(ctx, call{method: http.MethodGet, path: at("containers", ref, "export")})
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// Changes lists what a container has made different from its image.
func (c *Client) Changes(ctx context.Context, ref string) ([]Change, error) {
	var out []Change
	err := c.do(ctx, call{method: http.MethodGet, path: at("containers", ref, "changes")}, &out)
	return out, err
}
