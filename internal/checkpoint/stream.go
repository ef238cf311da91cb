package checkpoint

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// zstdWindow is the memory that decompressing may take: what the zstd tool
// accepts without being told more (--long=27).
const zstdWindow = 128 << 20

// entryOverhead is what a tar needs for one entry beside its content: header,
// padding, and records for a long name.
const entryOverhead = 8 << 10

// bound is what a stream may hold once it is decompressed.
type bound struct {
	what  string // for messages
	bytes int64
	key   string // of the configuration
}

// stream is an archive, decompressed while it is read. containerd's
// compression package tells the formats apart but does not decompress here: it
// accepts any zstd window and may start other programs.
type stream struct {
	ctx    context.Context
	reader io.Reader // decompressed
	close  func()
	left   int64 // bytes that may still be read
	source *source
	bound  bound
	plain  bool // it is not compressed
}

// newStream reads f within the bound, to which comes what a tar needs for the
// entries themselves.
func newStream(ctx context.Context, f *os.File, b bound, entries int) (*stream, error) {
	s := &stream{
		ctx:    ctx,
		close:  func() {},
		left:   b.bytes + (int64(entries)+2)*entryOverhead,
		source: &source{f: f},
		bound:  b,
	}
	if s.left < 0 {
		s.left = b.bytes
	}
	magic := make([]byte, 10)
	n, err := f.ReadAt(magic, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	buf := bufio.NewReaderSize(s.source, 64<<10)
	switch compression.DetectCompression(magic[:n]) {
	case compression.Gzip:
		r, err := gzip.NewReader(buf)
		if err != nil {
			return nil, s.explain(err)
		}
		s.reader = r
	case compression.Zstd:
		r, err := zstd.NewReader(buf, zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, s.explain(err)
		}
		s.reader, s.close = r, r.Close
	default:
		s.reader, s.plain = buf, true
	}
	return s, nil
}

// Read stops when the context ends and when the archive is larger than its
// limits allow: entries alone do not bound it, headers can be as large.
func (s *stream) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if s.left <= 0 {
		return 0, s.exceeded()
	}
	n, err := s.reader.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, err
}

func (s *stream) exceeded() error {
	return exceeds(s.bound.what, "", s.bound.bytes, "bytes", s.bound.key)
}

func (s *stream) Close() { s.close() }

// explain gives an error from reading or writing its class. What the kernel
// says of our own files is no fault of the archive.
func (s *stream) explain(err error) error {
	var errno syscall.Errno
	switch {
	case s.source.err != nil:
		return fmt.Errorf("read: %w", s.source.err)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("the disk is full: %w: %w", err, errdefs.ErrResourceExhausted)
	case s.ctx.Err() != nil:
		return s.ctx.Err()
	case errors.As(err, &errno),
		errdefs.IsInvalidArgument(err), errdefs.IsResourceExhausted(err):
		return err
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fmt.Errorf("needs more than %d bytes of memory to decompress: compress it with a smaller zstd window: %w",
			int64(zstdWindow), errdefs.ErrResourceExhausted)
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("ends too early, copy or export it again: %w", errdefs.ErrInvalidArgument)
	}
	return fmt.Errorf("neither a tar nor a tar compressed with gzip or zstd, or damaged: %s: %w",
		clip(err.Error()), errdefs.ErrInvalidArgument)
}

// source is the archive as stored. It remembers an error that reading from
// disk gave, which decompressors do not all pass on.
type source struct {
	f   *os.File
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.f.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}
