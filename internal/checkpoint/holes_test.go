package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// hole returns an archive with one file, which is a hole of a size with four bytes of data after it.
func hole(t *testing.T, size int64) string {
	t.Helper()
	content := append(make([]byte, 512), "data"...)
	copy(content, fmt.Sprintf("1\n%d\n4\n", size))
	sparse := file("GNUSparseFile.0/pages-1.img", string(content))
	sparse.PAXRecords = map[string]string{
		"GNU_sparse.major": "1", "GNU_sparse.minor": "0", "GNU_sparse.name": "pages-1.img",
		"GNU_sparse.realsize": strconv.FormatInt(size+4, 10),
	}
	return stored(t, bytes.ReplaceAll(tarball(t, sparse), []byte("GNU_sparse"), []byte("GNU.sparse")))
}

// A hole takes no room on the disk, whatever its size.
func TestUnpackKeepsHoles(t *testing.T) {
	const size = 16 << 30
	dst, err := unpack(t, hole(t, size), DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dst, "pages-1.img")
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != size+4 || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes, of which %d are on the disk", st.Size, st.Blocks*512)
	}
	fd, err := unix.Open(name, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	end := make([]byte, 8)
	if _, err := unix.Pread(fd, end, size-4); err != nil || string(end) != "\x00\x00\x00\x00data" {
		t.Errorf("ends with %q, %v", end, err)
	}
}

// Who waits for a hole is heard. (More than this is not unpacked in less than the time.)
func TestUnpackOfAHoleEndsWithItsContext(t *testing.T) {
	limits := DefaultLimits()
	limits.ArchiveBytes = 1 << 50
	ctx, cancel := context.WithCancel(t.Context())
	archive, dst := hole(t, 1<<49), t.TempDir()
	ended := make(chan error)
	go func() { ended <- Unpack(ctx, archive, dst, limits) }()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
