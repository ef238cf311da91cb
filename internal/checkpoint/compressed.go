package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// Archive makes the file, which must not exist, a tar compressed with zstd, of the checkpoint in dir, which is now
// complete. It is several frames of zstd, with a skippable one for alignment (RFC 8878, 3.1): the compressed pages of
// the largest image become the archive, where the file system can insert into them, as in [WriteArchive].
func (c *Compressor) Archive(ctx context.Context, dir, file string) (err error) {
	if err := c.finish(ctx); err != nil {
		return err
	}
	files, err := listFiles(dir)
	if err != nil {
		return err
	}
	w := &archiveWriter{ctx: ctx, dir: dir, at: time.Now().Truncate(time.Second)}
	parts := map[*archiveFile]*pages{}
	for _, f := range files {
		if i := slices.IndexFunc(c.parts, func(p *pages) bool { return p.name == f.name }); i >= 0 {
			parts[f] = c.parts[i]
		}
	}
	first := largestPages(files)
	head, err := w.compressedHead(files, parts, first)
	if err != nil {
		return err
	}
	if first == nil {
		w.f, err = os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	} else {
		w.f, err = w.prepend(head, parts[first].dst, file)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.f.Close()) }()
	if first == nil {
		if _, err := w.f.Write(head); err != nil {
			return err
		}
	} else if err := w.pad(first); err != nil {
		return err
	}
	if err := w.compressedRest(files, parts); err != nil {
		return err
	}
	return w.f.Sync()
}

// compressedHead returns the small files and the header of the pages that follow, as frames that end at a block's end.
func (w *archiveWriter) compressedHead(files []*archiveFile, parts map[*archiveFile]*pages,
	first *archiveFile) ([]byte, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(w.dir, &st); err != nil {
		return nil, err
	}
	var head bytes.Buffer
	z, err := zstd.NewWriter(&head, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderPadding(int(st.Bsize)))
	if err != nil {
		return nil, err
	}
	tw := tar.NewWriter(z)
	var size int64
	for _, f := range files {
		if parts[f] != nil || f.size > maxHeadFile || size+f.size > maxHead {
			continue
		}
		size += f.size
		if err = w.entry(tw, f); err != nil {
			err = fmt.Errorf("%s: %w", f.name, err)
			break
		}
	}
	if err == nil {
		err = tw.Flush()
	}
	if err == nil && first != nil {
		err = tw.WriteHeader(w.header(first))
		first.done = true
	}
	err = errors.Join(err, z.Close())
	return head.Bytes(), err
}

// prepend makes the archive of the head and the compressed pages, and returns it, open and at its end.
func (w *archiveWriter) prepend(head []byte, pages *os.File, file string) (*os.File, error) {
	if unix.Fallocate(int(pages.Fd()), unix.FALLOC_FL_INSERT_RANGE, 0, int64(len(head))) == nil {
		if _, err := pages.WriteAt(head, 0); err != nil {
			return nil, err
		}
		if err := os.Rename(pages.Name(), file); err != nil {
			return nil, err
		}
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND, 0)
		return f, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(head)
	if err == nil {
		err = w.appendFrames(f, pages)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// appendFrames appends the compressed pages.
func (w *archiveWriter) appendFrames(f, pages *os.File) error {
	if _, err := pages.Seek(0, io.SeekStart); err != nil {
		return err
	}
	for {
		if err := w.ctx.Err(); err != nil {
			return err
		}
		switch _, err := io.CopyN(f, pages, 64*copyBuffer); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
	}
}

// pad fills up a tar block, which CRIU's whole pages do not need.
func (w *archiveWriter) pad(f *archiveFile) error {
	if rest := f.size % 512; rest > 0 {
		return w.frame(make([]byte, 512-rest))
	}
	return nil
}

// frame writes content as a frame of its own.
func (w *archiveWriter) frame(content []byte) error {
	z, err := zstd.NewWriter(w.f, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	_, err = z.Write(content)
	return errors.Join(err, z.Close())
}

// compressedRest writes what is not in the archive yet: other pages, and large files.
func (w *archiveWriter) compressedRest(files []*archiveFile, parts map[*archiveFile]*pages) error {
	for _, f := range files {
		if f.done || parts[f] == nil {
			continue
		}
		f.done = true
		var header bytes.Buffer
		if err := tar.NewWriter(&header).WriteHeader(w.header(f)); err != nil {
			return err
		}
		if err := errors.Join(w.frame(header.Bytes()), w.appendFrames(w.f, parts[f].dst), w.pad(f)); err != nil {
			return fmt.Errorf("%s: %w", f.name, err)
		}
	}
	z, err := zstd.NewWriter(w.f, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	tw := tar.NewWriter(z)
	for _, f := range files {
		if f.done {
			continue
		}
		if err = w.entry(tw, f); err != nil {
			err = fmt.Errorf("%s: %w", f.name, err)
			break
		}
	}
	if err == nil {
		err = tw.Close()
	}
	return errors.Join(err, z.Close()) // also ends the goroutines of the encoder
}
