package docker

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestCopy(t *testing.T) {
	t.Parallel()
	n := idle(t, "-v", "/data", "--tmpfs", "/scratch")
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree", "sub")
	if err := os.MkdirAll(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "file"), []byte("words\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("file", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	docker(t, "cp", filepath.Join(dir, "tree"), n+":/copied")
	says(t, "words\n640 file", "exec", n, "sh", "-c", "cat /copied/sub/link; stat -c %a /copied/sub/file | tr '\\n' ' '; readlink /copied/sub/link")
	docker(t, "cp", filepath.Join(dir, "tree")+"/.", n+":/data")
	says(t, "words", "exec", n, "cat", "/data/sub/file")
	docker(t, "cp", filepath.Join(tree, "file"), n+":/data/other")
	docker(t, "cp", n+":/data", filepath.Join(dir, "back"))
	if data, err := os.ReadFile(filepath.Join(dir, "back", "other")); string(data) != "words\n" {
		t.Errorf("%q, %v", data, err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "back", "sub", "link")); to != "file" {
		t.Errorf("%q, %v", to, err)
	}
	docker(t, "cp", n+":/etc/passwd", dir)
	if data, err := os.ReadFile(filepath.Join(dir, "passwd")); !strings.HasPrefix(string(data), "root:") {
		t.Errorf("%q, %v", data, err)
	}
	fails(t, 1, []string{"cp", n + ":/nosuch", dir}, "/nosuch")
	fails(t, 1, []string{"cp", filepath.Join(tree, "file"), n + ":/nosuch/x"}, "no such")
	fails(t, 1, []string{"cp", filepath.Join(dir, "tree"), n + ":/etc/passwd"}, "cannot copy directory")

	// As an archive, and from a container that does not run.
	docker(t, "stop", n)
	r := try(t, nil, "cp", n+":/copied", "-")
	if got := names(t, strings.NewReader(r.out)); !slices.Equal(got, []string{"copied/", "copied/sub/", "copied/sub/file", "copied/sub/link"}) {
		t.Errorf("in the archive: %v (%s)", got, r.err)
	}
	if r := try(t, strings.NewReader(r.out), "cp", "-", n+":/tmp"); r.code != 0 {
		t.Error(r)
	}
	docker(t, "start", n)
	says(t, "words", "exec", n, "cat", "/tmp/copied/sub/file")

	readOnly := idle(t, "--read-only", "-v", "/data")
	fails(t, 1, []string{"cp", filepath.Join(tree, "file"), readOnly + ":/file"}, "read-only")
	docker(t, "cp", filepath.Join(tree, "file"), readOnly+":/data/file")
	says(t, "words", "exec", readOnly, "cat", "/data/file")
}

// names of what is in an archive.
func names(t testing.TB, r io.Reader) []string {
	t.Helper()
	var all []string
	for a := tar.NewReader(r); ; {
		h, err := a.Next()
		if errors.Is(err, io.EOF) {
			slices.Sort(all)
			return all
		}
		if err != nil {
			t.Errorf("after %d entries: %v", len(all), err)
			return all
		}
		all = append(all, h.Name)
	}
}

func TestDiff(t *testing.T) {
	t.Parallel()
	n := name(t)
	docker(t, "run", "--name", n, "busybox", "sh", "-c", "echo x >/new; rm /bin/ls; mkdir /home/dir; echo y >>/etc/passwd")
	got := strings.Split(docker(t, "diff", n), "\n")
	slices.Sort(got)
	if want := []string{"A /home/dir", "A /new", "C /bin", "C /etc", "C /etc/passwd", "C /home", "D /bin/ls"}; !slices.Equal(got, want) {
		t.Errorf("diff %v, want %v", got, want)
	}
}

func TestCommitAndExport(t *testing.T) {
	t.Parallel()
	n := idle(t, "-e", "A=b", "-l", "who=me")
	docker(t, "exec", n, "sh", "-c", "echo words >/file; rm /bin/ls")
	image := name(t)
	remove(t, "rmi", "-f", image+":1")
	id := docker(t, "commit", "-m", "some words", "-a", "somebody", "-c", `CMD ["cat","/file"]`, "-c", "ENV C=d", n, image+":1")
	if !strings.HasPrefix(id, "sha256:") || len(id) != 71 {
		t.Errorf("commit: %q", id)
	}
	says(t, "words", "run", "--rm", image+":1")
	says(t, "b d", "run", "--rm", image+":1", "sh", "-c", "echo $A $C")
	fails(t, 127, []string{"run", "--rm", image + ":1", "/bin/ls"}, "/bin/ls")
	says(t, "somebody some words me", "image", "inspect", "-f", `{{.Author}} {{.Comment}} {{.Config.Labels.who}}`, image+":1")
	shows(t, []string{"history", image + ":1"}, "IMAGE", "some words")

	file := filepath.Join(t.TempDir(), "root.tar")
	docker(t, "export", "-o", file, n)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if all := names(t, bytes.NewReader(data)); !slices.Contains(all, "file") || slices.Contains(all, "bin/ls") || !slices.Contains(all, "bin/busybox") {
		t.Errorf("exported: %v", all)
	}
	remove(t, "rmi", "-f", image+":2", image+":3")
	docker(t, "import", "-m", "brought in", "-c", `ENTRYPOINT ["cat"]`, file, image+":2")
	says(t, "words", "run", "--rm", image+":2", "/file")
	if r := try(t, bytes.NewReader(data), "import", "-", image+":3"); r.code != 0 {
		t.Error(r)
	}
	says(t, "words", "run", "--rm", image+":3", "cat", "/file")
}

func TestImages(t *testing.T) {
	t.Parallel()
	repo := "t-images/box"
	remove(t, "rmi", "-f", repo+":1", repo+":2")
	docker(t, "tag", "busybox", repo+":1")
	docker(t, "tag", repo+":1", repo+":2")
	got := strings.Split(docker(t, "images", "--format", "{{.Repository}}:{{.Tag}}", repo), "\n")
	slices.Sort(got)
	if want := []string{repo + ":1", repo + ":2"}; !slices.Equal(got, want) {
		t.Errorf("images %v, want %v", got, want)
	}
	id := docker(t, "images", "-q", "--no-trunc", repo+":1")
	if id != docker(t, "image", "inspect", "-f", "{{.Id}}", "busybox") {
		t.Errorf("a tag is not the image: %s", id)
	}
	shows(t, []string{"images", "--filter", "reference=t-images/*", "--digests"}, "REPOSITORY", "DIGEST", repo)
	shows(t, []string{"images", "--filter", "before=busybox"}, "REPOSITORY")
	shows(t, []string{"image", "inspect", "-f", "{{.RepoTags}}", repo + ":1"}, repo+":1", repo+":2")
	shows(t, []string{"history", "--no-trunc", "--format", "{{.ID}}", "busybox"}, id)

	file := filepath.Join(t.TempDir(), "images.tar")
	docker(t, "save", "-o", file, repo+":1", repo+":2")
	shows(t, []string{"rmi", repo + ":1"}, "Untagged: "+repo+":1")
	docker(t, "rmi", repo+":2")
	fails(t, 1, []string{"rmi", repo + ":2"}, "No such image: "+repo+":2")
	shows(t, []string{"load", "-i", file}, "Loaded image: "+repo+":1", "Loaded image: "+repo+":2")
	says(t, id, "image", "inspect", "-f", "{{.Id}}", repo+":2")
	says(t, "back", "run", "--rm", repo+":2", "echo", "back")

	piped := try(t, nil, "save", repo+":1")
	if all := names(t, strings.NewReader(piped.out)); !slices.Contains(all, "manifest.json") {
		t.Errorf("saved: %v", all)
	}
	if r := try(t, strings.NewReader(piped.out), "load", "-q"); r.code != 0 || !strings.Contains(r.out, "Loaded image: "+repo+":1") {
		t.Error(r)
	}
	if r := try(t, strings.NewReader("no archive"), "load"); r.code == 0 {
		t.Error(r)
	}

	own := "t-images-own:1"
	n := idle(t)
	docker(t, "exec", n, "touch", "/own")
	docker(t, "commit", n, own)
	remove(t, "rmi", "-f", own)
	user := name(t)
	docker(t, "create", "--name", user, own, "true")
	fails(t, 1, []string{"rmi", own}, "container", "using")
	docker(t, "rm", user)
	shows(t, []string{"rmi", own}, "Untagged: "+own, "Deleted: sha256:")
}
