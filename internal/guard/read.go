package guard

import (
	"bytes"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// buffers are for reading files of /proc, of which there are some for each thread of a container.
var buffers = sync.Pool{New: func() any { return new([64 << 10]byte) }}

// lines calls f with the lines of a file of /proc. They are gone when it returns.
func lines(path string, f func(line []byte) error) error {
	buffer := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buffer)
	buf := buffer[:]
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for left := 0; ; {
		n, err := unix.Read(fd, buf[left:])
		if err != nil {
			return &os.PathError{Op: "read", Path: path, Err: err}
		}
		text := buf[:left+n]
		for {
			line, rest, whole := bytes.Cut(text, []byte("\n"))
			if !whole {
				break
			}
			if err := f(line); err != nil {
				return err
			}
			text = rest
		}
		if n == 0 {
			return nil
		}
		if left = copy(buf, text); left == len(buf) {
			return &os.PathError{Op: "read", Path: path, Err: unix.E2BIG}
		}
	}
}

// readSmall reads a file of /proc that the kernel gives in one piece, with as few calls of it as possible.
func readSmall(path string) ([]byte, error) {
	buffer := buffers.Get().(*[64 << 10]byte)
	defer buffers.Put(buffer)
	buf := buffer[:]
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	n, err := unix.Read(fd, buf)
	if err != nil {
		return nil, &os.PathError{Op: "read", Path: path, Err: err}
	}
	if n == len(buf) {
		return os.ReadFile(path)
	}
	return bytes.Clone(buf[:n]), nil
}
