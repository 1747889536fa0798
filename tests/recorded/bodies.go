package recorded

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// archiveBody is the body that a directive names. All but busybox are the same
// bytes every time.
func archiveBody(what, busybox string) ([]byte, error) {
	switch what {
	case "busybox":
		return os.ReadFile(busybox)
	case "rootfs":
		return tarOf("etc/", "", "etc/motd", "hello\n"), nil
	case "file":
		return tarOf("hello.txt", "hello\n"), nil
	case "image":
		return savedImage(), nil
	case "garbage":
		return bytes.Repeat([]byte("no archive "), 100), nil
	}
	return nil, fmt.Errorf("body %q: there is no such archive", what)
}

// tarOf makes an archive of names and contents; a name with a slash at its end
// is a directory.
func tarOf(files ...string) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i+1 < len(files); i += 2 {
		h := &tar.Header{Name: files[i], Size: int64(len(files[i+1])), Mode: 0o644, Typeflag: tar.TypeReg}
		if strings.HasSuffix(files[i], "/") {
			h.Mode, h.Typeflag = 0o755, tar.TypeDir
		}
		_ = w.WriteHeader(h) // into memory
		_, _ = w.Write([]byte(files[i+1]))
	}
	_ = w.Close()
	return b.Bytes()
}

// savedImage is what `docker save` makes of an image of one layer.
func savedImage() []byte {
	layer := tarOf("etc/", "", "etc/motd", "loaded\n")
	sum := sha256.Sum256(layer)
	config, _ := json.Marshal(map[string]any{
		"architecture": "amd64", "os": "linux", "created": "2020-01-02T03:04:05Z",
		"config":  map[string]any{"Cmd": []string{"/bin/true"}, "Env": []string{"A=b"}, "Labels": map[string]string{"made": "by hand"}},
		"history": []any{map[string]any{"created": "2020-01-02T03:04:05Z", "created_by": "by hand"}},
		"rootfs":  map[string]any{"type": "layers", "diff_ids": []string{"sha256:" + hex.EncodeToString(sum[:])}},
	})
	sum = sha256.Sum256(config)
	name := hex.EncodeToString(sum[:]) + ".json"
	manifest, _ := json.Marshal([]any{map[string]any{
		"Config": name, "RepoTags": []string{"handmade:1"}, "Layers": []string{"layer/layer.tar"},
	}})
	return tarOf("layer/", "", "layer/layer.tar", string(layer), name, string(config), "manifest.json", string(manifest))
}
