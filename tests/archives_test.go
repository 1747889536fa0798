package tests

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os/exec"
	"runtime"
	"testing"
)

// imageConfig is a configuration for layers, as docker and OCI write it.
func imageConfig(t testing.TB, layers ...[]byte) []byte {
	t.Helper()
	ids := []string{}
	for _, l := range layers {
		ids = append(ids, digestOf(l))
	}
	return marshal(t, map[string]any{
		"architecture": runtime.GOARCH, "os": "linux", "created": "2024-01-02T03:04:05Z",
		"config": map[string]any{"Cmd": []string{"cat", "/etc/greeting"}, "Env": []string{"PATH=/bin", "FROM=archive"},
			"Labels": map[string]string{"made": "here"}, "ExposedPorts": map[string]any{"80/tcp": map[string]any{}}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": ids},
	})
}

// dockerArchive is what docker save writes.
func dockerArchive(t testing.TB, name string, layers ...[]byte) []byte {
	t.Helper()
	config := imageConfig(t, layers...)
	var entries []entry
	var names []string
	for _, l := range layers {
		n := hexOf(l) + "/layer.tar"
		names = append(names, n)
		entries = append(entries, file(n, l))
	}
	manifest := marshal(t, []map[string]any{{"Config": hexOf(config) + ".json", "RepoTags": []string{name}, "Layers": names}})
	return tarOf(t, append(entries, file(hexOf(config)+".json", config), file("manifest.json", manifest))...)
}

// ociArchive is an OCI image layout; pack compresses its layers.
func ociArchive(t testing.TB, name, mediaType string, pack func(testing.TB, []byte) []byte, layers ...[]byte) []byte {
	t.Helper()
	blob := func(data []byte) entry { return file("blobs/sha256/"+hexOf(data), data) }
	descriptor := func(kind string, data []byte) map[string]any {
		return map[string]any{"mediaType": kind, "digest": digestOf(data), "size": len(data)}
	}
	config := imageConfig(t, layers...)
	entries := []entry{file("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)), blob(config)}
	var list []map[string]any
	for _, l := range layers {
		packed := pack(t, l)
		entries = append(entries, blob(packed))
		list = append(list, descriptor(mediaType, packed))
	}
	manifest := marshal(t, map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": descriptor("application/vnd.oci.image.config.v1+json", config), "layers": list})
	m := descriptor("application/vnd.oci.image.manifest.v1+json", manifest)
	m["annotations"] = map[string]string{"io.containerd.image.name": "docker.io/library/" + name, "org.opencontainers.image.ref.name": name}
	index := marshal(t, map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []any{m}})
	return tarOf(t, append(entries, blob(manifest), file("index.json", index))...)
}

func file(name string, data []byte) entry {
	return entry{tar.Header{Name: name, Mode: 0o644}, string(data)}
}

func gzipped(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zstandard(t testing.TB, data []byte) []byte {
	t.Helper()
	cmd := exec.Command("zstd", "-qc")
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("zstd: %v", err)
	}
	return out
}

func plain(_ testing.TB, data []byte) []byte { return data }

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func hexOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func digestOf(data []byte) string { return "sha256:" + hexOf(data) }
