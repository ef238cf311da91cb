package checkpoint

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

const (
	// minDirect is the size of the smallest file that the kernel copies, in bytes.
	minDirect = 1 << 20
	// directPart is how much it copies at once, in bytes, before the context is looked at. File systems
	// share whole blocks only (copy_file_range(2)), so it is a multiple of theirs.
	directPart = 4 << 20
)

// plain is the stream of a tar that is not compressed: content can be skipped without being read, and copied without
// passing through this process.
type plain struct{ *stream }

// Seek skips content that nobody wants. Forward only: archive/tar needs no more.
func (p *plain) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekCurrent || offset < 0 {
		return 0, errors.ErrUnsupported
	}
	if offset > p.left {
		return 0, p.exceeded()
	}
	at, err := p.source.f.Seek(offset, io.SeekCurrent)
	if err == nil {
		p.left -= offset
	}
	return at, err
}

// copy writes the whole content of an entry, which tr has come to, into dst, which is empty. It reports false, with
// nothing written, for content that is not in one piece in the archive.
func (p *plain) copy(dst *os.File, hdr *tar.Header, tr io.Reader) (bool, error) {
	if hdr.Typeflag != tar.TypeReg || hdr.Size < minDirect {
		return false, nil
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return false, nil
		}
	}
	at, err := p.source.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return false, err
	}
	// Where archive/tar has come to in the file is its own affair. So ask: what it reads next has to be what is here.
	var want, got [512]byte
	if _, err := io.ReadFull(tr, want[:]); err != nil {
		return false, err
	}
	if _, err := p.source.f.ReadAt(got[:], at); err != nil || want != got {
		return false, fmt.Errorf("content is not at %d, where it was expected: %w", at, errors.Join(err, io.ErrUnexpectedEOF))
	}
	if _, err := p.source.f.Seek(at, io.SeekStart); err != nil {
		return false, err
	}
	for left := hdr.Size; left > 0; {
		if err := p.ctx.Err(); err != nil {
			return false, err
		}
		// os.File lets the kernel copy from one file to the other, which shares blocks where the file system can.
		n, err := io.CopyN(dst, p.source.f, min(left, directPart))
		if err != nil {
			return false, err
		}
		left -= n
	}
	_, err = p.source.f.Seek(at+int64(len(want)), io.SeekStart)
	return true, err
}
