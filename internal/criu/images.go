package criu

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// What may be decoded of one checkpoint, in bytes. A checkpoint of 50 processes has some
// hundred KiB; a pagemap has at most one entry of 20 bytes for each 4 KiB of memory.
const (
	maxEntry   = 16 << 20
	maxDecoded = 1 << 30
	// maxKept is the memory that decoded messages may take, which is up to 31 times that of their encoding: some
	// 300,000 open files.
	maxKept = 256 << 20
	// askedEvery is how many entries there are between two looks at the context.
	askedEvery = 1 << 8
)

// Images are the CRIU images of one checkpoint (criu.org/Images). Everything that is read of them
// is bounded and decoded strictly, see [Decode].
//
// The methods' errors are of class errdefs.ErrInvalidArgument for images that CRIU would not have
// written, of class errdefs.ErrResourceExhausted for those that are too large to be looked at, and name the image.
type Images struct {
	root    *os.Root
	files   map[string]int64
	entries map[string][]proto.Message
	decoded int64
	kept    int64
	ctx     context.Context
}

// OpenImages lists the directory with the images. All in it have to be regular files.
func OpenImages(dir string) (_ *Images, retErr error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("CRIU images: %w", err)
	}
	defer func() {
		if retErr != nil {
			root.Close()
		}
	}()
	f, err := root.Open(".")
	if err != nil {
		return nil, fmt.Errorf("CRIU images: %w", err)
	}
	defer f.Close()
	list, err := f.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("CRIU images: %w", err)
	}
	s := &Images{ctx: context.Background(), root: root, files: map[string]int64{}, entries: map[string][]proto.Message{}}
	for _, e := range list {
		info, err := e.Info()
		if err != nil {
			return nil, fmt.Errorf("CRIU images: %w", err)
		}
		if !info.Mode().IsRegular() {
			return nil, invalidImage(e.Name(), "it is "+kindOf(info.Mode()))
		}
		s.files[e.Name()] = info.Size()
	}
	return s, nil
}

// Until ends what is read of the images from now on with the context, whose error it then is.
func (s *Images) Until(ctx context.Context) { s.ctx = ctx }

// Close closes the directory.
func (s *Images) Close() error { return s.root.Close() }

// Names returns the names of all files in the directory, sorted.
func (s *Images) Names() []string { return slices.Sorted(maps.Keys(s.files)) }

// Size returns the size of an image in bytes, and whether there is one.
func (s *Images) Size(name string) (int64, bool) {
	size, ok := s.files[name]
	return size, ok
}

// Open opens an image that is no sequence of entries, such as a tar archive.
func (s *Images) Open(name string) (io.ReadCloser, error) { return s.open(name) }

// Each calls f with every entry of an image, in their order. The bytes are f's only until it
// returns. kind is the name of the image's magic number (criu/include/magic.h) without "_MAGIC".
// An error of f becomes one about this image.
func (s *Images) Each(name, kind string, f func(i int, entry []byte) error) error {
	return s.each(name, kind, func(i int, entry []byte, _ io.Reader) error { return f(i, entry) })
}

// EachWithData is Each for images in which data follows some entries: f takes it from rest.
func (s *Images) EachWithData(name, kind string, f func(i int, entry []byte, rest io.Reader) error) error {
	return s.each(name, kind, f)
}

func (s *Images) each(name, kind string, f func(i int, entry []byte, rest io.Reader) error) error {
	file, err := s.open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	r := bufio.NewReaderSize(file, int(min(s.files[name]+16, 64<<10)))
	want := magicOf(kind)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
		return invalidImage(name, "its magic number is not that of "+kind)
	}
	var buf []byte
	for i := 0; ; i++ {
		if err := s.ctx.Err(); err != nil && i%askedEvery == 0 {
			return fmt.Errorf("CRIU image %.200q: %w", name, err)
		}
		var length [4]byte
		if _, err := io.ReadFull(r, length[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return invalidImage(name, "it ends within an entry")
		}
		n := int64(binary.LittleEndian.Uint32(length[:]))
		if left := s.files[name]; n > left {
			return invalidImage(name, "it ends within an entry")
		}
		if n > maxEntry {
			return invalidImage(name, fmt.Sprintf("an entry has more than %d bytes", maxEntry))
		}
		if s.decoded += n + int64(len(length)); s.decoded > maxDecoded {
			return tooLarge(name, "have more than %d bytes besides the pages", maxDecoded)
		}
		buf = slices.Grow(buf[:0], int(n))[:n]
		if _, err := io.ReadFull(r, buf); err != nil {
			return invalidImage(name, "it ends within an entry")
		}
		if err := f(i, buf, r); err != nil {
			if errdefs.IsResourceExhausted(err) || s.ctx.Err() != nil && errors.Is(err, s.ctx.Err()) {
				return err // says nothing of the image
			}
			return invalidImage(name, clip(err.Error(), 300))
		}
	}
}

// open opens a file of the directory, never through a link and never waiting for a writer.
func (s *Images) open(name string) (*os.File, error) {
	if _, ok := s.files[name]; !ok {
		return nil, fmt.Errorf("CRIU image %.200q: %w: %w", name, os.ErrNotExist, errdefs.ErrInvalidArgument)
	}
	f, err := s.root.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("CRIU image: %w", err)
	}
	return f, nil
}

// Entries returns the entries of an image whose entries are all of one kind. It is read once;
// callers must not change what they get.
func Entries[M proto.Message](s *Images, name, kind string) ([]M, error) {
	if cached, ok := s.entries[name]; ok {
		out := make([]M, len(cached))
		for i := range cached {
			m, ok := cached[i].(M)
			if !ok {
				return nil, fmt.Errorf("CRIU image %s: read as two kinds", name)
			}
			out[i] = m
		}
		return out, nil
	}
	var (
		out  []M
		all  []proto.Message
		zero M
	)
	err := s.Each(name, kind, func(_ int, entry []byte) error {
		m := zero.ProtoReflect().New().Interface().(M)
		if s.kept += memory(entry, m.ProtoReflect().Descriptor(), 0); s.kept > maxKept {
			return tooLarge(name, "need more than %d bytes of memory to be looked at", maxKept)
		}
		out, all = append(out, m), append(all, m)
		return Decode(entry, m)
	})
	if err != nil {
		return nil, err
	}
	s.entries[name] = all
	return out, nil
}

// Encode returns an image.
func Encode(kind string, entries ...proto.Message) ([]byte, error) {
	out := magicOf(kind)
	for _, e := range entries {
		payload, err := proto.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("CRIU image of kind %s: %w", kind, err)
		}
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(payload))), payload...)
	}
	return out, nil
}

func invalidImage(name, why string) error {
	return fmt.Errorf("CRIU image %.200q: %s: %w", name, why, errdefs.ErrInvalidArgument)
}

// tooLarge is the error of images of which not all is looked at. So a node that only audits does not let them through
// either.
func tooLarge(name, why string, limit int64) error {
	return fmt.Errorf("CRIU image %.200q: the images of the checkpoint "+why+": %w", name, limit,
		errdefs.ErrResourceExhausted)
}

// kindOf names what is no regular file.
func kindOf(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "a directory"
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	case m&fs.ModeNamedPipe != 0:
		return "a FIFO"
	}
	return "a socket or a device, not a regular file"
}
