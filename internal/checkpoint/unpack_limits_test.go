package checkpoint

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/zstd"
)

func TestUnpackLimits(t *testing.T) {
	f := podmanFiles()
	var size int64
	for _, content := range f {
		size += int64(len(content))
	}
	archive := stored(t, compressed(t, tarball(t, f.entries()...), compression.Gzip))
	exact := Limits{ArchiveBytes: size, Entries: len(f) + 2} // and the directories checkpoint and volumes
	if _, err := unpack(t, archive, exact); err != nil {
		t.Fatalf("at the limits: %v", err)
	}
	for key, l := range map[string]Limits{
		keyArchive: {ArchiveBytes: size - 1, Entries: exact.Entries},
		keyEntries: {ArchiveBytes: size, Entries: exact.Entries - 1},
	} {
		_, err := unpack(t, archive, l)
		wantError(t, err, errdefs.IsResourceExhausted, key, archive)
	}
	_, err := unpack(t, archive, Limits{})
	wantError(t, err, errdefs.IsResourceExhausted)
}

// Directories that are only implied count too.
func TestUnpackLimitsImplied(t *testing.T) {
	archive := stored(t, tarball(t, file("a/b/c/d", "")))
	l := DefaultLimits()
	l.Entries = 3
	_, err := unpack(t, archive, l)
	wantError(t, err, errdefs.IsResourceExhausted, keyEntries)
	l.Entries = 4
	if _, err := unpack(t, archive, l); err != nil {
		t.Error(err)
	}
}

// zeros is an endless stream.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// bomb returns a small archive that is large when decompressed: head, and size
// zeros.
func bomb(t *testing.T, c compression.Compression, head []byte, size int64) string {
	t.Helper()
	var buf bytes.Buffer
	w, err := compression.CompressStream(&buf, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(head); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(w, zeros{}, size); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return stored(t, buf.Bytes())
}

func header(t *testing.T, h tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).WriteHeader(&h); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestUnpackBomb(t *testing.T) {
	l := Limits{ArchiveBytes: 1 << 20, Entries: 10}
	reg := func(size int64) []byte {
		return header(t, tar.Header{Typeflag: tar.TypeReg, Name: "pages-1.img", Size: size, Mode: 0o600})
	}
	for _, c := range []compression.Compression{compression.Gzip, compression.Zstd} {
		_, err := unpack(t, bomb(t, c, reg(8<<20), 8<<20), l)
		wantError(t, err, errdefs.IsResourceExhausted, keyArchive)
		// The twin is as large as the limit, padding beside.
		if _, err := unpack(t, bomb(t, c, reg(1<<20), 1<<20+1024), l); err != nil {
			t.Error(err)
		}
		// What comes after the end of the tar counts too.
		_, err = unpack(t, bomb(t, c, tarball(t, file("a", "x")), 8<<20), l)
		wantError(t, err, errdefs.IsResourceExhausted, keyArchive)
	}

	// Headers without an end: each says that the next has a long name, and
	// none is ever an entry. archive/tar reads them all in one call.
	var pax bytes.Buffer
	for pax.Len() < 4<<20 {
		h := header(t, tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("n/", 400) + "x", Format: tar.FormatPAX})
		pax.Write(h[:len(h)-512]) // without the entry
	}
	_, err := unpack(t, bomb(t, compression.Gzip, pax.Bytes(), 0), l)
	wantError(t, err, errdefs.IsResourceExhausted, keyArchive)
}

// sparseTar returns an archive with one file in the old GNU sparse format: all
// hole, with the given size. archive/tar reads but does not write it.
func sparseTar(t *testing.T, size int64) []byte {
	t.Helper()
	h := header(t, tar.Header{Typeflag: tar.TypeReg, Name: "pages-1.img", Mode: 0o600, Format: tar.FormatGNU})
	h[156] = tar.TypeGNUSparse
	octal := func(field []byte, v int64) {
		for i := len(field) - 2; i >= 0; i-- {
			field[i] = byte('0' + v&7)
			v >>= 3
		}
		field[len(field)-1] = 0
	}
	octal(h[386:398], size) // first and only piece of data: at the end,
	octal(h[398:410], 0)    // and empty
	octal(h[483:495], size) // size of the file
	copy(h[148:156], "        ")
	var sum int64
	for _, b := range h[:512] {
		sum += int64(b)
	}
	octal(h[148:155], sum)
	return append(h, make([]byte, 1024)...)
}

func TestUnpackSparse(t *testing.T) {
	l := Limits{ArchiveBytes: 1 << 20, Entries: 10}
	for _, size := range []int64{1<<20 + 1, 1 << 32} {
		_, err := unpack(t, stored(t, sparseTar(t, size)), l)
		wantError(t, err, errdefs.IsResourceExhausted, keyArchive)
	}
	dst, err := unpack(t, stored(t, sparseTar(t, 1<<20)), l)
	if err != nil {
		t.Fatal(err)
	}
	if got := contents(t, dst)["pages-1.img"]; got != strings.Repeat("\x00", 1<<20) {
		t.Errorf("%d bytes", len(got))
	}
}

// A zstd frame may ask for any amount of memory.
func TestUnpackWindow(t *testing.T) {
	data := tarball(t, containerdFiles().entries()...)
	// frame returns the archive in a frame that asks for a window of 1<<log bytes
	// (RFC 8878, 3.1.1.1.2).
	frame := func(log byte) []byte {
		var buf bytes.Buffer
		w, err := zstd.NewWriter(&buf, zstd.WithSingleSegment(false))
		if err != nil {
			t.Fatal(err)
		}
		// In two parts, so that the frame does not say how long it is.
		for _, part := range [][]byte{data[:600], data[600:]} {
			if _, err := w.Write(part); err != nil {
				t.Fatal(err)
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		const singleSegment = 1 << 5
		if buf.Bytes()[4]&singleSegment != 0 {
			t.Fatal("the frame has no window")
		}
		buf.Bytes()[5] = (log - 10) << 3
		return buf.Bytes()
	}
	_, err := unpack(t, stored(t, frame(28)), DefaultLimits())
	wantError(t, err, errdefs.IsResourceExhausted, "memory", "window")
	if _, err := unpack(t, stored(t, frame(27)), DefaultLimits()); err != nil {
		t.Error(err)
	}
}
