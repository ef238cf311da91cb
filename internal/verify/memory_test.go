package verify

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/memfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

func TestPages(t *testing.T) {
	page := criutest.Page
	ranges := func(j judgement, r ...criutest.Range) judgement {
		j.change = func(files map[string]string, _ *specs.Spec) {
			maps.Copy(files, criutest.Pages("pagemap-1.img", "PAGEMAP", 1, r...))
		}
		return j
	}
	content := func(j judgement, name string, f func(string) string) judgement {
		j.change = func(files map[string]string, _ *specs.Spec) { files[name] = f(files[name]) }
		return j
	}
	entry := func(j judgement, e *pagemap.PagemapEntry, pages uint64) judgement {
		j.change = func(files map[string]string, _ *specs.Spec) {
			files["pagemap-1.img"] = criutest.Image("PAGEMAP", &pagemap.PagemapHead{PagesId: proto.Uint32(1)}, e)
			files["pages-1.img"] = strings.Repeat("\x00", int(pages*page))
		}
		return j
	}
	at := func(nr uint32, change func(*pagemap.PagemapEntry)) *pagemap.PagemapEntry {
		e := &pagemap.PagemapEntry{Vaddr: proto.Uint64(criutest.Heap), NrPages: &nr}
		change(e)
		return e
	}
	heap, stack, text := criutest.Heap, criutest.Stack, criutest.Text
	judge(t, single, map[string]judgement{
		"no pages":             ranges(judgement{}),
		"each by itself":       ranges(judgement{}, criutest.Range{Start: heap, Pages: 1}, criutest.Range{Start: heap + page, Pages: 1}),
		"of a private file":    ranges(judgement{}, criutest.Range{Start: text, Pages: 4}),
		"before CRIU 4.2":      entry(judgement{}, at(2, func(*pagemap.PagemapEntry) {}), 2),
		"lazy and there":       entry(judgement{}, at(2, func(e *pagemap.PagemapEntry) { e.Flags = proto.Uint32(6) }), 2),
		"not aligned":          ranges(judgement{malformed: "not in order"}, criutest.Range{Start: heap + 8, Pages: 1}),
		"not in order":         ranges(judgement{malformed: "not in order"}, criutest.Range{Start: stack, Pages: 1}, criutest.Range{Start: heap, Pages: 1}),
		"overlap":              ranges(judgement{malformed: "not in order"}, criutest.Range{Start: heap, Pages: 2}, criutest.Range{Start: heap + page, Pages: 1}),
		"outside all mappings": ranges(judgement{malformed: "not all in private mappings"}, criutest.Range{Start: high, Pages: 1}),
		"longer than mapping":  ranges(judgement{malformed: "not all in private mappings"}, criutest.Range{Start: heap + 3*page, Pages: 2}),
		"before the mapping":   ranges(judgement{malformed: "not all in private mappings"}, criutest.Range{Start: heap - page, Pages: 1}),
		"beyond the end":       ranges(judgement{malformed: "end beyond"}, criutest.Range{Start: userEnd, Pages: 1}),
		"in a shared mapping": {change: func(files map[string]string, _ *specs.Spec) {
			change(files, "mm-1.img", "MM", func(e *mm.MmEntry) {
				e.Vmas[1].Status, e.Vmas[1].Flags = proto.Uint32(0x101), proto.Uint32(0x21)
			})
		}, malformed: "not all in private mappings"},
		"over two mappings": {change: func(files map[string]string, _ *specs.Spec) {
			change(files, "mm-1.img", "MM", func(e *mm.MmEntry) {
				e.Vmas = append(e.Vmas, criutest.Mapping(high, 1), criutest.Mapping(high+page, 1))
			})
			maps.Copy(files, criutest.Pages("pagemap-1.img", "PAGEMAP", 1, criutest.Range{Start: high, Pages: 2}))
		}},

		"in the parent":         entry(judgement{malformed: "incremental"}, at(2, func(e *pagemap.PagemapEntry) { e.InParent = proto.Bool(true) }), 2),
		"in the parent by flag": entry(judgement{malformed: "incremental"}, at(2, func(e *pagemap.PagemapEntry) { e.Flags = proto.Uint32(1) }), 2),
		"lazy and not there":    entry(judgement{malformed: "incremental"}, at(2, func(e *pagemap.PagemapEntry) { e.Flags = proto.Uint32(2) }), 0),
		"no flags":              entry(judgement{malformed: "incremental"}, at(2, func(e *pagemap.PagemapEntry) { e.Flags = proto.Uint32(0) }), 0),
		"unknown flag":          entry(judgement{malformed: "incremental"}, at(2, func(e *pagemap.PagemapEntry) { e.Flags = proto.Uint32(20) }), 2),
		"aligned":               entry(judgement{malformed: "image-io-mode"}, at(2, func(e *pagemap.PagemapEntry) { e.Flags = proto.Uint32(12) }), 2),
		"no number":             entry(judgement{malformed: "no pages"}, at(0, func(*pagemap.PagemapEntry) {}), 0),
		"two numbers":           entry(judgement{malformed: "two numbers"}, at(4, func(e *pagemap.PagemapEntry) { criutest.Later(e, 5, 2) }), 2),
		"overflow":              entry(judgement{malformed: "end beyond"}, at(0, func(e *pagemap.PagemapEntry) { criutest.Later(e, 5, 1<<52) }), 0),

		"pages missing":  content(judgement{malformed: "it has 4096 bytes"}, "pages-1.img", func(s string) string { return s[:4096] }),
		"pages too many": content(judgement{malformed: fmt.Sprintf("there are %d", 3*page)}, "pages-1.img", func(s string) string { return s + "x" }),
		"pagemap cut":    content(judgement{malformed: "ends within an entry"}, "pagemap-1.img", func(s string) string { return s[:len(s)-2] }),
		"no pagemap":     content(judgement{malformed: "pagemap-1.img"}, "pagemap-1.img", func(string) string { return "" }),
		"no head":        content(judgement{malformed: "ends within an entry"}, "pagemap-1.img", func(s string) string { return s[:8] }),
		"no pages image": {change: func(files map[string]string, _ *specs.Spec) { delete(files, "pages-1.img") }, malformed: "pages-1.img, with its 3 pages, is not there"},
	})
}

// TestPagesOfTwo has two processes read one pages image.
func TestPagesOfTwo(t *testing.T) {
	judge(t, two, map[string]judgement{"in one image": {
		change: func(files map[string]string, _ *specs.Spec) {
			files["pagemap-7.img"] = files["pagemap-1.img"]
			delete(files, "pages-2.img")
		},
		malformed: "in the same image as those of pagemap-1.img",
	}})
}

func TestSharedPages(t *testing.T) {
	page := criutest.Page
	honest := func() map[string]string {
		files := withFiles()
		change(files, "mm-1.img", "MM", func(e *mm.MmEntry) {
			e.Vmas = append(e.Vmas, area(0x101, 0x21, func(e *vma.VmaEntry) { e.Shmid, e.Pgoff = proto.Uint64(77), proto.Uint64(page) }))
		})
		zero := proto.Uint32(0)
		files["memfd.img"] = criutest.Image("MEMFD_INODE", &memfd.MemfdInodeEntry{
			Name: proto.String("x"), Uid: zero, Gid: zero, Size: proto.Uint64(page + 1), Shmid: proto.Uint32(78), Seals: zero, InodeId: proto.Uint64(0),
		})
		maps.Copy(files, criutest.Pages("pagemap-shmem-77.img", "PAGEMAP", 31, criutest.Range{Start: page, Pages: 2}))
		maps.Copy(files, criutest.Pages("pagemap-shmem-78.img", "PAGEMAP", 32, criutest.Range{Start: page, Pages: 1}))
		return files
	}
	with := func(malformed string, id, pagesID int, r ...criutest.Range) judgement {
		return judgement{change: func(files map[string]string, _ *specs.Spec) {
			maps.Copy(files, criutest.Pages(fmt.Sprintf("pagemap-shmem-%d.img", id), "PAGEMAP", uint32(pagesID), r...))
		}, malformed: malformed}
	}
	judge(t, honest, map[string]judgement{
		// In CRIU: offset + length is 0, which is not more than the size, and it writes before the memory.
		"negative offset": with("end beyond", 77, 31, criutest.Range{Start: -page, Pages: 1}),
		"negative, 78":    with("end beyond", 78, 32, criutest.Range{Start: -page, Pages: 1}),
		"number of more than 32 bits": {change: func(files map[string]string, _ *specs.Spec) {
			e := &pagemap.PagemapEntry{Vaddr: proto.Uint64(0), NrPages: proto.Uint32(0), Flags: proto.Uint32(4)}
			criutest.Later(e, 5, 1<<32+1)
			files["pagemap-shmem-77.img"] = criutest.Image("PAGEMAP", &pagemap.PagemapHead{PagesId: proto.Uint32(31)}, e)
		}, malformed: "end beyond"},
		"beyond the mapping": with("end beyond", 77, 31, criutest.Range{Start: 2 * page, Pages: 2}),
		"beyond the file":    with("end beyond", 78, 32, criutest.Range{Start: 2 * page, Pages: 1}),
		"of nothing":         with("no shared memory has the number 79", 79, 33, criutest.Range{Start: 0, Pages: 1}),
		"in another's image": with("in the same image", 77, 1, criutest.Range{Start: 0, Pages: 3}),
		"a segment and a smaller file with one number": {change: func(files map[string]string, _ *specs.Spec) {
			change(files, "memfd.img", "MEMFD_INODE", func(e *memfd.MemfdInodeEntry) { e.Shmid, e.Size = proto.Uint32(77), proto.Uint64(page) })
			delete(files, "pagemap-shmem-78.img")
			delete(files, "pages-32.img")
		}, malformed: "end beyond"},
	})
}

// TestMemoryLimit compares what a restore takes at least with the limit.
func TestMemoryLimit(t *testing.T) {
	limit := func(bytes int64, swap *int64) func(map[string]string, *specs.Spec) {
		return func(_ map[string]string, s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &bytes, Swap: swap}}
		}
	}
	page := int64(criutest.Page)
	bytes := func(n int64) *int64 { return &n }
	// Three pages of the first process, which the second may share, and one of a segment.
	honest := func() map[string]string {
		files := withIPC()
		for name, content := range two() {
			if _, ok := files[name]; !ok || name == "pstree.img" {
				files[name] = content
			}
		}
		return files
	}
	judge(t, honest, map[string]judgement{
		"enough":             {change: limit(4*page, nil)},
		"none":               {change: limit(0, nil)},
		"unlimited":          {change: limit(-1, nil)},
		"too little":         {change: limit(4*page-1, nil), refused: fmt.Sprintf("memory: found %d bytes, allowed %d bytes", 4*page, 4*page-1)},
		"with swap":          {change: limit(page, bytes(4*page))},
		"with little swap":   {change: limit(page, bytes(4*page-1)), refused: "allowed"},
		"without swap":       {change: limit(page, bytes(page)), refused: "allowed"},
		"with endless swap":  {change: limit(page, bytes(-1))},
		"swap not mentioned": {change: limit(page, bytes(0)), refused: fmt.Sprintf("allowed %d bytes", page)},
		"of its own": {change: func(files map[string]string, s *specs.Spec) {
			limit(4*page, nil)(files, s)
			change(files, "mm-7.img", "MM", func(e *mm.MmEntry) { e.Vmas[1].End = proto.Uint64(e.Vmas[1].GetEnd() + uint64(page)) })
		}, refused: fmt.Sprintf("found %d bytes", 6*page)},
		"huge pages, which are accounted elsewhere": {change: func(files map[string]string, s *specs.Spec) {
			limit(2*page, nil)(files, s)
			for _, name := range []string{"mm-1.img", "mm-7.img"} {
				change(files, name, "MM", func(e *mm.MmEntry) { e.Vmas[1].Flags = proto.Uint32(0x40022) })
			}
		}},
	})
}
