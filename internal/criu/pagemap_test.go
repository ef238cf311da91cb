package criu

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// TestPagemap reads pagemaps that are larger than a buffer.
func TestPagemap(t *testing.T) {
	for _, n := range []int{0, 1, 3, 5000, 100_000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			var want []criutest.Range
			for i := range n {
				want = append(want, criutest.Range{Start: uint64(i) << (12 + i%20), Pages: uint64(1 + i%300)})
			}
			files := criutest.Pages("pagemap-1.img", "PAGEMAP", 7)
			files["pagemap-1.img"] = pagemapOf(7, want)
			var got []criutest.Range
			id, err := openImages(t, writeAll(t, files)).Pagemap("pagemap-1.img", "PAGEMAP", func(start, pages uint64) error {
				got = append(got, criutest.Range{Start: start, Pages: pages})
				return nil
			})
			if err != nil || id != 7 || !slices.Equal(got, want) {
				t.Errorf("got %d ranges of image %d, error %v, want %d", len(got), id, err, n)
			}
		})
	}
}

func pagemapOf(id uint32, ranges []criutest.Range) string {
	entries := []proto.Message{&pagemap.PagemapHead{PagesId: &id}}
	for _, r := range ranges {
		e := &pagemap.PagemapEntry{Vaddr: &r.Start, NrPages: proto.Uint32(0), Flags: proto.Uint32(4)}
		criutest.Later(e, 5, r.Pages)
		entries = append(entries, e)
	}
	return criutest.Image("PAGEMAP", entries...)
}

func TestPagemapInvalid(t *testing.T) {
	const name = "pagemap-1.img"
	whole := pagemapOf(7, []criutest.Range{{Start: 4096, Pages: 1}, {Start: 1 << 40, Pages: 1 << 20}})
	bad := map[string]string{
		"empty": "", "another kind": criutest.Image("MM"), "no head": whole[:8],
		"head only as an entry": criutest.Image("PAGEMAP",
			&pagemap.PagemapEntry{Vaddr: proto.Uint64(0), NrPages: proto.Uint32(1)}),
		"long entry": whole + "\xff\xff\xff\x7f", "entry larger than a buffer": whole + "\x00\x00\x01\x00" +
			strings.Repeat("\x00", 1<<16),
	}
	for cut := 9; cut < len(whole); cut++ {
		bad[fmt.Sprintf("cut at %d", cut)] = whole[:cut]
	}
	// Where the entries end, by their lengths.
	ends := map[int]bool{}
	for at := 8; at < len(whole); {
		at += 4 + int(binary.LittleEndian.Uint32([]byte(whole[at:])))
		ends[at] = true
	}
	for what, content := range bad {
		read := func(content string) error {
			_, err := openImages(t, writeAll(t, map[string]string{name: content})).Pagemap(name, "PAGEMAP",
				func(uint64, uint64) error { return nil })
			return err
		}
		if err := read(content); ends[len(content)] && strings.HasPrefix(whole, content) {
			if err != nil {
				t.Errorf("%s, which is the end of an entry: %v", what, err)
			}
		} else if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: error %v, want an invalid argument about %s", what, err, name)
		}
	}
}

// TestCompressedPages refuses pages that CRIU 4.3 has compressed by that name; without them the same entry is read.
func TestCompressedPages(t *testing.T) {
	entry := wire{}.number(1, 4096).number(2, 0).number(4, pagePresent).number(5, 2)
	if start, pages, err := decodePages(entry); err != nil || start != 4096 || pages != 2 {
		t.Errorf("%d, %d, %v", start, pages, err)
	}
	blocks := wire{}.number(1, 100).number(1, 4096).number(2, 4196).number(3, 1)
	if _, _, err := decodePages(entry.bytes(6, blocks)); err == nil ||
		!strings.Contains(err.Error(), "compressed by CRIU") || !strings.Contains(err.Error(), "option compress") {
		t.Errorf("error %v", err)
	}
	aligned := wire{}.number(1, 4096).number(2, 0).number(4, pagePresent|pageAligned).number(5, 2)
	if _, _, err := decodePages(aligned); err == nil || !strings.Contains(err.Error(), "option image-io-mode") {
		t.Errorf("error %v", err)
	}
	if err := Decode(entry.bytes(6, blocks), &pagemap.PagemapEntry{}); err != nil {
		t.Errorf("the field is not known: %v", err)
	}
}

// TestDecodePages compares it with Decode: what it accepts Decode accepts, with the same values.
func TestDecodePages(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	number := func() uint64 {
		switch random.IntN(6) {
		case 0:
			return random.Uint64()
		case 1:
			return math.MaxUint32 + uint64(random.IntN(2))
		default:
			return uint64(random.IntN(5))
		}
	}
	var accepted int
	for range 50_000 {
		var entry []byte
		for field := byte(1); field <= 6; field++ {
			for range []int{0, 1, 1, 1, 1, 1, 1, 2}[random.IntN(8)] {
				entry = binary.AppendUvarint(append(entry, field<<3|byte(max(0, random.IntN(40)-38))), number())
				if random.IntN(40) == 0 {
					entry[len(entry)-1] |= 0x80
					entry = append(entry, byte(random.IntN(2)))
				}
			}
			if field == 5 && random.IntN(10) > 0 {
				break
			}
		}
		if random.IntN(20) == 0 {
			entry = entry[:random.IntN(len(entry)+1)]
		}
		start, pages, err := decodePages(entry)
		if err != nil {
			continue
		}
		accepted++
		e := &pagemap.PagemapEntry{}
		if err := Decode(entry, e); err != nil {
			t.Fatalf("%x: accepted, and not by Decode: %v", entry, err)
		}
		wide, err := Varints(e, 5)
		if err != nil {
			t.Fatal(err)
		}
		want := uint64(e.GetNrPages())
		if len(wide) > 0 {
			want = wide[0]
		}
		if start != e.GetVaddr() || pages != want || e.GetInParent() || e.Flags != nil && e.GetFlags()&^2 != 4 {
			t.Fatalf("%x: got %d pages at %#x, Decode says %v", entry, pages, start, e)
		}
	}
	if accepted < 100 {
		t.Errorf("only %d were accepted: the test compares nothing", accepted)
	}
}
