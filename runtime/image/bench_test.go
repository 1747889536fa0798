package image

import (
	"archive/tar"
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// benchTar makes a tar of about size bytes of this machine's own files.
func benchTar(b *testing.B, size int64) string {
	b.Helper()
	path := filepath.Join(b.TempDir(), "rootfs.tar")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	buf := bufio.NewWriter(f)
	w := tar.NewWriter(buf)
	total := int64(0)
	for _, root := range []string{"/usr/bin", "/usr/lib", "/usr/share"} {
		err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			if err != nil || total > size {
				return fs.SkipAll
			}
			fi, err := d.Info()
			if err != nil || fi.Size() > 8<<20 || !(fi.IsDir() || fi.Mode().IsRegular()) {
				return nil //nolint:nilerr // any other file will do
			}
			h, err := tar.FileInfoHeader(fi, "")
			if err != nil {
				return err
			}
			h.Name = p[1:]
			if err := w.WriteHeader(h); err != nil {
				return err
			}
			if fi.IsDir() {
				return nil
			}
			body, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			total += fi.Size()
			_, err = w.Write(body)
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
	w.Close()
	buf.Flush()
	return path
}

func BenchmarkImport(b *testing.B) {
	for _, mb := range []int64{5, 150} {
		path := benchTar(b, mb<<20)
		b.Run(fmt.Sprintf("%dMB/gantry", mb), func(b *testing.B) {
			s := newStore(b)
			for b.Loop() {
				f, err := os.Open(path)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := s.Import(b.Context(), f, ImportOptions{Name: "bench"}); err != nil {
					b.Fatal(err)
				}
				f.Close()
				b.StopTimer()
				if _, err := s.Remove(b.Context(), "bench", RemoveOptions{}); err != nil {
					b.Fatal(err)
				}
				if err := s.Collect(b.Context()); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			}
		})
		b.Run(fmt.Sprintf("%dMB/tar", mb), func(b *testing.B) {
			for b.Loop() {
				dir, err := os.MkdirTemp(b.TempDir(), "x")
				if err != nil {
					b.Fatal(err)
				}
				if out, err := exec.Command("tar", "xf", path, "-C", dir).CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
				b.StopTimer()
				os.RemoveAll(dir)
				b.StartTimer()
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	root := b.TempDir()
	s := openStore(b, root)
	for i := range 100 {
		mustImport(b, s, fmt.Sprintf("image%d", i), entry{name: "f", body: fmt.Sprint(i)})
	}
	s.Close()
	for b.Loop() {
		s, err := Open(b.Context(), Options{Root: root})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		s.Close()
		b.StartTimer()
	}
}

func BenchmarkGet(b *testing.B) {
	s := newStore(b)
	for i := range 100 {
		mustImport(b, s, fmt.Sprintf("image%d", i), entry{name: "f", body: fmt.Sprint(i)})
	}
	for b.Loop() {
		if _, err := s.Get(b.Context(), "image50"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkLowers(b *testing.B) {
	s := newStore(b)
	img := mustImport(b, s, "x", entry{name: "f", body: "1"})
	b.Run("cached", func(b *testing.B) {
		for b.Loop() {
			if _, err := s.Lowers(b.Context(), img.ID); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("uncached", func(b *testing.B) {
		for b.Loop() {
			if err := s.Release(b.Context(), img.ID); err != nil {
				b.Fatal(err)
			}
			if _, err := s.Lowers(b.Context(), img.ID); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("50-at-once", func(b *testing.B) {
		for b.Loop() {
			if err := s.Release(b.Context(), img.ID); err != nil {
				b.Fatal(err)
			}
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() { s.Lowers(b.Context(), img.ID) })
			}
			wg.Wait()
		}
	})
}
