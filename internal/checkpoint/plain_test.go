package checkpoint

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
)

// What the kernel copies is what archive/tar would have read, wherever it lies in the archive.
func TestUnpackLarge(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1})
	content := func(size int) string {
		b := make([]byte, size)
		_, _ = random.Read(b) // never fails
		return string(b)
	}
	commented := file("checkpoint/pages-3.img", content(minDirect+512))
	commented.PAXRecords = map[string]string{"comment": "a header that is longer than others"}
	entries := []entry{
		file("small", content(5)),
		file("checkpoint/pages-1.img", content(minDirect)),
		file("checkpoint/pages-2.img", content(directPart+minDirect+7)),
		commented,
		file("below", content(minDirect-1)),
		file("last", content(2*directPart)),
	}
	data := tarball(t, entries...)
	for _, c := range []compression.Compression{compression.Uncompressed, compression.Zstd} {
		dst, err := unpack(t, stored(t, compressed(t, data, c)), DefaultLimits())
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if got, err := os.ReadFile(filepath.Join(dst, e.Name)); err != nil || string(got) != e.content {
				t.Errorf("%q: %s has %d bytes that are not the %d it should have (%v)", c.Extension(), e.Name, len(got),
					len(e.content), err)
			}
		}
	}

	// Only metadata: what is large is skipped, and nothing else.
	archive := stored(t, tarball(t, append(entries, file(inventoryFile, "i"))...))
	dst := t.TempDir()
	if err := UnpackMetadata(t.Context(), archive, dst, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, dst); len(got) != 2 || got[inventoryFile] != "i" {
		t.Errorf("got %d files and directories", len(got))
	}
}

// An archive that ends within a large file is refused, whether the file is wanted or not.
func TestUnpackLargeCut(t *testing.T) {
	whole := tarball(t, file("checkpoint/pages-1.img", string(make([]byte, 3*minDirect))))
	for _, size := range []int{1000, 512 + minDirect, 512 + 3*minDirect - 1} {
		archive := stored(t, whole[:size])
		_, err := unpack(t, archive, DefaultLimits())
		wantError(t, err, errdefs.IsInvalidArgument, "ends too early")
		err = UnpackMetadata(t.Context(), archive, t.TempDir(), DefaultLimits())
		wantError(t, err, errdefs.IsInvalidArgument, "ends too early")
	}
	if _, err := unpack(t, stored(t, whole), DefaultLimits()); err != nil {
		t.Error(err)
	}
}

// A sparse file's content is not in one piece, whatever its type.
func TestUnpackLargeSparse(t *testing.T) {
	const hole, data = 2 * minDirect, 3 * minDirect
	// GNU's sparse format 1.0 (tar manual: "Storing Sparse Files"), which archive/tar reads but does not write: a map, and
	// the data.
	content := append(make([]byte, 512), bytes.Repeat([]byte("x"), data)...)
	copy(content, fmt.Sprintf("1\n%d\n%d\n", hole, data))
	sparse := file("GNUSparseFile.0/pages-1.img", string(content))
	sparse.PAXRecords = map[string]string{
		"GNU_sparse.major": "1", "GNU_sparse.minor": "0",
		"GNU_sparse.name": "pages-1.img", "GNU_sparse.realsize": strconv.Itoa(hole + data),
	}
	archive := bytes.ReplaceAll(tarball(t, sparse), []byte("GNU_sparse"), []byte("GNU.sparse"))
	dst, err := unpack(t, stored(t, archive), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Repeat("\x00", hole) + strings.Repeat("x", data)
	if got := contents(t, dst)["pages-1.img"]; got != want {
		t.Errorf("%d bytes that are not the %d it should have", len(got), len(want))
	}
}
