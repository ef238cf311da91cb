package criu

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"google.golang.org/protobuf/encoding/protowire"
)

// The flags of an entry of a pagemap (CRIU: criu/include/pagemap.h). Pages that are
// somewhere else than in the pages image are not accepted.
const (
	pageLazy    = 1 << 1
	pagePresent = 1 << 2
	pageAligned = 1 << 3 // CRIU 4.3: PE_PAYLOAD_ALIGNED
)

// pageBlocks begins the field of an entry whose pages are compressed (CRIU 4.3: images/pagemap.proto, blocks).
const pageBlocks = 6<<3 | byte(protowire.BytesType)

// Pagemap calls f with every range of pages of a pagemap, in their order, and returns the number of the
// pages image that has them. A pagemap may have an entry for each page, so these are decoded
// by hand, as strictly as by [Decode].
func (s *Images) Pagemap(name, kind string, f func(start, pages uint64) error) (pagesID uint32, err error) {
	file, err := s.open(name)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	if s.decoded += s.files[name]; s.decoded > maxDecoded {
		return 0, tooLarge(name, "have more than %d bytes besides the pages", maxDecoded)
	}
	r := bufio.NewReaderSize(file, 32<<10)
	want := magicOf(kind)
	if got, err := r.Peek(len(want)); err != nil || !bytes.Equal(got, want) {
		return 0, invalidImage(name, "its magic number is not that of "+kind)
	}
	r.Discard(len(want)) //nolint:errcheck // it has been peeked at
	for first := true; ; {
		if err := s.ctx.Err(); err != nil {
			return 0, fmt.Errorf("CRIU image %.200q: %w", name, err)
		}
		// All that is in the buffer is decoded where it lies.
		entry, rest, err := peekEntry(r)
		if errors.Is(err, io.EOF) && !first {
			return pagesID, nil
		}
		if err != nil {
			return 0, invalidImage(name, "it ends within an entry")
		}
		for ; entry != nil; entry, rest = cutEntry(rest) {
			if first {
				head := &pagemap.PagemapHead{}
				if err := Decode(entry, head); err != nil {
					return 0, invalidImage(name, err.Error())
				}
				pagesID, first = head.GetPagesId(), false
				continue
			}
			start, pages, err := decodePages(entry)
			if err == nil {
				err = f(start, pages)
			}
			if err != nil {
				return 0, invalidImage(name, clip(err.Error(), 300))
			}
		}
		r.Discard(r.Buffered() - len(rest)) //nolint:errcheck // it is in the buffer
	}
}

// lengthSize is the size of the length before an entry.
const lengthSize = 4

// peekEntry returns the next entry, whole, and what is in the buffer behind it. At the end of the image the error is
// io.EOF.
func peekEntry(r *bufio.Reader) (entry, rest []byte, err error) {
	b, err := r.Peek(lengthSize)
	if len(b) == 0 && errors.Is(err, io.EOF) {
		return nil, nil, io.EOF
	}
	if err != nil {
		return nil, nil, io.ErrUnexpectedEOF
	}
	n := int64(binary.LittleEndian.Uint32(b))
	if n > int64(r.Size()-lengthSize) {
		return nil, nil, io.ErrUnexpectedEOF // no entry of a pagemap is so long
	}
	if _, err := r.Peek(lengthSize + int(n)); err != nil {
		return nil, nil, io.ErrUnexpectedEOF
	}
	b, err = r.Peek(r.Buffered())
	entry, rest = cutEntry(b)
	return entry, rest, err
}

// cutEntry returns the first entry, nil if it is not whole, and what is behind it.
func cutEntry(b []byte) (entry, rest []byte) {
	if len(b) < lengthSize {
		return nil, b
	}
	n := binary.LittleEndian.Uint32(b)
	if uint64(n) > uint64(len(b)-lengthSize) {
		return nil, b
	}
	end := lengthSize + int(n)
	return b[lengthSize:end:end], b[end:]
}

// decodePages decodes an entry of a pagemap: vaddr (1), compat_nr_pages (2), in_parent (3), flags (4) and
// nr_pages (5), each at most once, in this order and as short as can be.
func decodePages(b []byte) (start, pages uint64, err error) {
	var (
		values [6]uint64
		has    [6]bool
		last   byte
	)
	for len(b) > 0 {
		field := b[0] >> 3
		if b[0] == pageBlocks {
			return 0, 0, errors.New("its pages are compressed by CRIU, which cannot be checked: take the checkpoint without " +
				"CRIU's option compress")
		}
		if b[0]&7 != 0 || field <= last || field > 5 {
			return 0, 0, errors.New("an entry is not written as CRIU writes it")
		}
		var (
			v uint64
			n int
		)
		if len(b) > 1 && b[1] < 0x80 {
			v, n = uint64(b[1]), 1
		} else if v, n = binary.Uvarint(b[1:]); n <= 0 || b[n] == 0 {
			return 0, 0, errors.New("an entry is not written as CRIU writes it: a number is longer than it has to be")
		}
		values[field], has[field], last = v, true, field
		b = b[1+n:]
	}
	start, compat, flags, pages := values[1], values[2], values[4], values[5]
	switch {
	case !has[1] || !has[2] || compat > math.MaxUint32 || values[3] > 1 || flags > math.MaxUint32:
		return 0, 0, errors.New("an entry is not written as CRIU writes it")
	case values[4]&pageAligned != 0:
		return 0, 0, errors.New("its pages lie where CRIU's option image-io-mode has put them, which cannot be checked: " +
			"take the checkpoint without it")
	case values[3] == 1 || has[4] && flags&^pageLazy != pagePresent:
		return 0, 0, errors.New("it has pages that are in another image: the checkpoint is part of an incremental or a " +
			"lazy one")
	case !has[5]:
		pages = compat // from before CRIU 4.2
	case compat != 0 && compat != pages:
		return 0, 0, errors.New("an entry has two numbers of pages")
	}
	if pages == 0 {
		return 0, 0, errors.New("an entry has no pages")
	}
	return start, pages, nil
}
