package api

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"

	"gantry/runtime"

	"github.com/moby/moby/api/types/container"
)

// pathStatHeader tells of the path that an archive is of: JSON, in base64.
const pathStatHeader = "X-Docker-Container-Path-Stat"

// maxLeftover is how much of a refused body is read, so that a client that
// sends before it listens hears why.
const maxLeftover = 32 << 20

func archivePath(r *http.Request) (string, error) {
	path := r.URL.Query().Get("path")
	if path == "" {
		return "", invalid("bad parameter: path cannot be empty")
	}
	return path, nil
}

func setPathStat(w http.ResponseWriter, st runtime.PathStat) error {
	text, err := json.Marshal(container.PathStat{Name: st.Name, Size: st.Size, Mode: st.Mode, Mtime: st.ModTime, LinkTarget: st.LinkTarget})
	if err != nil {
		return fmt.Errorf("encode the state of a path: %w", err)
	}
	w.Header().Set(pathStatHeader, base64.StdEncoding.EncodeToString(text))
	return nil
}

func (s *server) archiveStat(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	path, err := archivePath(r)
	if err != nil {
		return err
	}
	st, err := s.Engine.StatPath(ctx, r.PathValue("id"), path)
	if err != nil {
		return err
	}
	if err := setPathStat(w, st); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *server) archiveGet(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	path, err := archivePath(r)
	if err != nil {
		return err
	}
	st, archive, err := s.Engine.GetArchive(ctx, r.PathValue("id"), path)
	if err != nil {
		return err
	}
	defer archive.Close()
	if err := setPathStat(w, st); err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-tar")
	return pour(w, archive)
}

// pour sends an archive whose end says whether it is complete. One that breaks
// off before it has begun is answered by the status of why.
func pour(w http.ResponseWriter, archive io.Reader) error {
	buf := make([]byte, 128<<10)
	n, err := io.ReadAtLeast(archive, buf, 1)
	if err != nil && err != io.EOF { //nolint:errorlint // what Read gives
		return err
	}
	w.WriteHeader(http.StatusOK)
	if _, err := w.Write(buf[:n]); err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{archive}, buf)
	return err
}

func (s *server) archivePut(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	path, err := archivePath(r)
	if err != nil {
		return err
	}
	q := r.URL.Query()
	o := runtime.PutOptions{NoOverwrite: boolean(q, "noOverwriteDirNonDir"), ToUser: boolean(q, "copyUIDGID")}
	if err := s.Engine.PutArchive(ctx, r.PathValue("id"), path, o, r.Body); err != nil {
		_, _ = io.CopyN(io.Discard, r.Body, maxLeftover)
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func (s *server) containerExport(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	archive, err := s.Engine.ExportContainer(ctx, r.PathValue("id"))
	if err != nil {
		return err
	}
	defer archive.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	return pour(w, archive)
}

func (s *server) containerChanges(ctx context.Context, w http.ResponseWriter, r *http.Request) error {
	found, err := s.Engine.Changes(ctx, r.PathValue("id"))
	if err != nil {
		return err
	}
	var out []container.FilesystemChange // nothing is null
	for _, c := range found {
		out = append(out, container.FilesystemChange{Kind: container.ChangeType(c.Kind), Path: c.Path})
	}
	return writeJSON(w, http.StatusOK, out)
}
