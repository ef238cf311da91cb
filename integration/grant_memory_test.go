package integration

import (
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// vmaGuard marks the areas that CRIU adds itself behind all others (CRIU: criu/include/image.h, VMA_AREA_GUARD).
const vmaGuard = 1 << 16

// memoryAttacks give CRIU memory areas that would be in its own way while it is the host's root
// still, or that only root may have (T40).
var memoryAttacks = []struct {
	what   string
	change func([]*vma.VmaEntry) []*vma.VmaEntry
}{
	// CRIU looks for room for its own code between the areas and stops at this mark
	// (criu/cr-restore.c, restorer_get_vma_hint): what follows would be mapped over it.
	{"guard before the others", func(all []*vma.VmaEntry) []*vma.VmaEntry {
		guard := proto.Clone(all[len(all)-1]).(*vma.VmaEntry)
		guard.Status = proto.Uint32(vmaGuard)
		return append([]*vma.VmaEntry{guard}, all...)
	}},
	{"not in order", func(all []*vma.VmaEntry) []*vma.VmaEntry {
		all[0], all[1] = all[1], all[0]
		return all
	}},
	{"overlapping", func(all []*vma.VmaEntry) []*vma.VmaEntry {
		all[0].End = proto.Uint64(all[1].GetStart() + 4096)
		return all
	}},
	{"one twice", func(all []*vma.VmaEntry) []*vma.VmaEntry { return append(all[:1:1], all...) }},
	{"ends before it begins", func(all []*vma.VmaEntry) []*vma.VmaEntry {
		all[0].End = proto.Uint64(all[0].GetStart() - 4096)
		return all
	}},
	{"in the kernel", func(all []*vma.VmaEntry) []*vma.VmaEntry {
		last := proto.Clone(all[0]).(*vma.VmaEntry)
		last.Start, last.End = proto.Uint64(0xffff800000000000), proto.Uint64(0xffff800000001000)
		return append(all, last)
	}},
	{"not a page", func(all []*vma.VmaEntry) []*vma.VmaEntry {
		all[0].Start = proto.Uint64(all[0].GetStart() + 8)
		return all
	}},
	{"unknown status", func(all []*vma.VmaEntry) []*vma.VmaEntry {
		all[0].Status = proto.Uint32(all[0].GetStatus() | 1<<24)
		return all
	}},
	{"already in place", func(all []*vma.VmaEntry) []*vma.VmaEntry {
		all[0].Status = proto.Uint32(all[0].GetStatus() | 1<<30) // VMA_PREMMAPED: CRIU's own mark
		return all
	}},
}

func anonymous(start, end uint64) *vma.VmaEntry {
	return &vma.VmaEntry{
		Start: &start, End: &end, Pgoff: proto.Uint64(0), Shmid: proto.Uint64(0), Prot: proto.Uint32(3),
		Flags: proto.Uint32(0x22), Status: proto.Uint32(1 | 1<<9), Fd: proto.Int64(-1), // private, anonymous
	}
}

// TestGrantMemory gives a checkpoint memory that no process of its pod could have.
func TestGrantMemory(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newGrant(t, n)
	for _, tc := range memoryAttacks {
		t.Run(tc.what, func(t *testing.T) {
			g.refusesEdited(t, func(e *imageEditor) {
				editEntry(e, "mm-1.img", "MM", func(m *mm.MmEntry) { m.Vmas = tc.change(m.GetVmas()) })
			}, codes.InvalidArgument, "mm-1.img")
		})
	}
	t.Run("first page", func(t *testing.T) {
		// A process without CAP_SYS_RAWIO cannot map it, and the kernel counts on that (proc(5), mmap_min_addr).
		g.refusesEdited(t, func(e *imageEditor) {
			editEntry(e, "mm-1.img", "MM", func(m *mm.MmEntry) {
				m.Vmas = append([]*vma.VmaEntry{anonymous(0, 4096)},
					m.GetVmas()...)
			})
		}, codes.PermissionDenied, "process 1", "address")
	})
	t.Run("ring of another size", func(t *testing.T) {
		g.refusesEdited(t, func(e *imageEditor) {
			editEntry(e, "mm-1.img", "MM", func(m *mm.MmEntry) {
				m.Aios = []*mm.AioRingEntry{{Id: proto.Uint64(0x10000), NrReq: proto.Uint32(1), RingLen: proto.Uint32(1 << 20)}}
			})
		}, codes.InvalidArgument, "mm-1.img")
	})
	t.Run("areas in an image of their own", func(t *testing.T) {
		// An old CRIU wrote them so, and CRIU still reads them (criu/mem.c, prepare_mm_pid).
		g.refusesEdited(t, func(e *imageEditor) {
			editEntry(e, "mm-1.img", "MM", func(m *mm.MmEntry) {
				var all []proto.Message
				for _, v := range m.GetVmas() {
					all = append(all, v)
				}
				e.Add("vmas-1.img", "VMAS", all...)
				m.Vmas = nil
			})
		}, codes.InvalidArgument, "image")
	})
	t.Run("pages missing", func(t *testing.T) {
		g.refusesEdited(t, func(e *imageEditor) { e.Write("pages-1.img", e.Read("pages-1.img")[:4096]) },
			codes.InvalidArgument, "pages-1.img")
	})
	t.Run("pages left over", func(t *testing.T) {
		g.refusesEdited(t, func(e *imageEditor) {
			e.Write("pages-1.img", append(e.Read("pages-1.img"), make([]byte, 4096)...))
		}, codes.InvalidArgument, "pages-1.img")
	})
	for what, change := range map[string]func(entry []byte) []byte{
		"more pages than there are": func(entry []byte) []byte { return protoField(entry, 2, 1<<30) },
		"as many as overflow":       func(entry []byte) []byte { return protoField(entry, 5, 1<<52) },
		"pages of a parent":         func(entry []byte) []byte { return protoField(entry, 4, 1|4) },
		"pages that come later":     func(entry []byte) []byte { return protoField(entry, 4, 2) },
		"pages outside":             func(entry []byte) []byte { return protoField(entry, 1, 0x10000) },
	} {
		t.Run(what, func(t *testing.T) {
			g.refusesEdited(t, func(e *imageEditor) {
				magic, entries := rawEntries(e.Read("pagemap-1.img"))
				entries[1] = change(entries[1])
				e.Write("pagemap-1.img", rawImage(magic, entries...))
			}, codes.InvalidArgument, "pagemap-1.img")
		})
	}
	t.Run("twin", func(t *testing.T) { g.accepts(t, g.archive, nil) })

	t.Run("limit", func(t *testing.T) {
		heap := &grant{n: n, prefix: "ok"}
		pod := n.Pod(t)
		c := pod.Run("counter", workloadImage(t, n), workload("heap", "64"))
		heap.counted = waitOK(t, c, 3)
		heap.archive = checkpointOf(t, c)
		heap.pod = n.Pod(t)
		heap.opts = []harness.ContainerOpt{harness.MemoryLimit(32 << 20)}
		heap.refuses(t, heap.archive, codes.PermissionDenied, "memory", "33554432")
		heap.opts = []harness.ContainerOpt{harness.MemoryLimit(128 << 20)}
		heap.accepts(t, heap.archive, nil)
	})
}

// protoField sets a number in an encoded message.
func protoField(message []byte, field protowire.Number, value uint64) []byte {
	var out []byte
	for b := message; len(b) > 0; {
		n, _, size := protowire.ConsumeField(b)
		if size < 0 {
			panic("a message cannot be decoded")
		}
		if n == field {
			out = protowire.AppendVarint(protowire.AppendTag(out, field, protowire.VarintType), value)
		} else {
			out = append(out, b[:size]...)
		}
		b = b[size:]
	}
	if len(out) == len(message) && string(out) == string(message) {
		out = protowire.AppendVarint(protowire.AppendTag(out, field, protowire.VarintType), value)
	}
	return out
}
