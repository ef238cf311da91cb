package checkpoint

import (
	"errors"
	"io"
	"os"
)

// copyPart is how much content is copied before the context is looked at, in bytes.
const copyPart = 64 << 10

// copy writes the content of an entry into a new file. A sparse entry's holes, of which 130 bytes of archive may have
// gigabytes, stay holes: they are known by that nothing is read from the archive for them. Their size counts as any
// other.
func (u *unpacker) copy(dst *os.File, size int64, content io.Reader) error {
	buf := make([]byte, min(copyPart, size))
	for at := int64(0); at < size; {
		if err := u.stream.ctx.Err(); err != nil {
			return err
		}
		before := u.stream.left
		n, err := content.Read(buf[:min(int64(len(buf)), size-at)])
		if n > 0 && u.stream.left != before {
			if _, err := dst.WriteAt(buf[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if errors.Is(err, io.EOF) && at < size {
			return io.ErrUnexpectedEOF
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
	}
	return dst.Truncate(size)
}
