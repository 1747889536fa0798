package image

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
)

// What is damaged is the sender's fault, what breaks off on the way is not.
func TestDecompressSaysWhoseFaultItIs(t *testing.T) {
	text := []byte(strings.Repeat("all work and no play ", 5000))
	z, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for name, whole := range map[string][]byte{"gzip": gz(text), "zstd": z.EncodeAll(text, nil)} {
		damaged := bytes.Clone(whole)
		damaged[len(damaged)/2] ^= 0xff
		read := func(r io.Reader) error {
			d, err := Decompress(r)
			if err != nil {
				return err
			}
			defer d.Close()
			_, err = io.Copy(io.Discard, d)
			return err
		}
		if err := read(bytes.NewReader(whole)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := read(bytes.NewReader(damaged)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("damaged %s: %v", name, err)
		}
		if err := read(bytes.NewReader(whole[:len(whole)-9])); !errdefs.IsInvalidArgument(err) || !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s cut off: %v", name, err)
		}
		away := errors.New("the wire is cut")
		if err := read(io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), iotest.ErrReader(away))); !errors.Is(err, away) || errdefs.IsInvalidArgument(err) {
			t.Errorf("%s that breaks off: %v", name, err)
		}
	}
}
