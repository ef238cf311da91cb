package criutest

import (
	"fmt"
	"maps"
	"os"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cgroup"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fs"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/netdev"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timens"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/utsns"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// Program is the ID of the program of all processes in files.img.
const Program = 1

// Page is the size of a page of memory.
var Page = uint64(os.Getpagesize())

// Where a process of [Checkpoint] has its mappings. Its pages are two of the heap and one of the stack.
var (
	Text  = 256 * Page
	Heap  = 512 * Page
	Stack = 1024 * Page
)

// Checkpoint returns the images of processes in a pod as CRIU 4.2 writes them, without mounts and with no
// other open file than the program.
func Checkpoint(tasks ...Task) map[string]string {
	images := Tasks(tasks...)
	for i, t := range tasks {
		if t.Core.GetTc().GetTaskState() == Zombie().GetTc().GetTaskState() {
			delete(images, fmt.Sprintf("ids-%d.img", t.PID))
			continue
		}
		maps.Copy(images, Memory(t.PID, uint32(i+1), []Range{{Heap, 2}, {Stack, 1}},
			Mapping(Text, 4, func(e *vma.VmaEntry) {
				e.Status, e.Flags, e.Prot = proto.Uint32(0x41), proto.Uint32(2), proto.Uint32(5)
				e.Shmid, e.Fdflags = proto.Uint64(Program), proto.Uint32(0)
			}),
			Mapping(Heap, 4),
			Mapping(Stack, 4, func(e *vma.VmaEntry) { e.Flags = proto.Uint32(0x122) }),
		))
		root := proto.Uint32(Program)
		images[fmt.Sprintf("fs-%d.img", t.PID)] = Image("FS",
			&fs.FsEntry{CwdId: root, RootId: root, Umask: proto.Uint32(0o22)})
	}
	inv := &inventory.InventoryEntry{
		ImgVersion: proto.Uint32(2), FdinfoPerId: proto.Bool(true), NsPerId: proto.Bool(true), RootIds: IDs(1),
		RootCgSet: proto.Uint32(1), Lsmtype: inventory.Lsmtype_NO_LSM.Enum(), NetworkLockMethod: proto.Uint32(0),
	}
	// plugins_entry, which is empty, and dump_criu_run_id.
	inv.ProtoReflect().SetUnknown(LaterBytes(LaterBytes(nil, 12, ""), 13, RunID))
	images["inventory.img"] = Image("INVENTORY", inv)
	zero := proto.Uint32(0)
	images["files.img"] = Image("FILES", &fdinfo.FileEntry{
		Type: fdinfo.FdTypes_REG.Enum(), Id: proto.Uint32(Program),
		Reg: &regfile.RegFileEntry{
			Id: proto.Uint32(Program), Flags: zero, Pos: proto.Uint64(0), Name: proto.String("/bin/sh"),
			Fown: &fown.FownEntry{Uid: zero, Euid: zero, Signum: zero, PidType: zero, Pid: zero},
		},
	})
	images["fdinfo-2.img"] = Image("FDINFO")
	images["netns-2.img"] = Image("NETNS", &netdev.NetnsEntry{ExtKey: proto.String("extRootNetNS")})
	images["utsns-2.img"] = Image("UTSNS", &utsns.UtsnsEntry{Nodename: proto.String("pod"),
		Domainname: proto.String("(none)")})
	clock := &timens.Timespec{TvSec: proto.Uint64(3044), TvNsec: proto.Uint64(738302011)}
	images["timens-0.img"] = Image("TIMENS", &timens.TimensEntry{Monotonic: clock, Boottime: clock})
	images["cgroup.img"] = Image("CGROUP", &cgroup.CgroupEntry{})
	images["seccomp.img"] = Image("SECCOMP")
	images["descriptors.json"] = `["/dev/null","/dev/null","/dev/null"]`
	return images
}

// RunID is the ID of the CRIU that has written [Checkpoint].
const RunID = "3b241101-e2bb-4255-8caf-4136c566a962"

// LaterBytes adds a field of bytes that go-criu does not know to an encoded message.
func LaterBytes(b []byte, field protowire.Number, value string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), value)
}

// Memory returns the images, by name, of a process's memory: where it is mapped, and which pages are in the
// pages image with that number.
func Memory(pid, pagesID uint32, ranges []Range, mappings ...*vma.VmaEntry) map[string]string {
	address := func(a uint64) *uint64 { return &a }
	images := map[string]string{fmt.Sprintf("mm-%d.img", pid): Image("MM", &mm.MmEntry{
		MmStartCode: address(Text), MmEndCode: address(Text), MmStartData: address(Text), MmEndData: address(Text),
		MmStartStack: address(Stack), MmStartBrk: address(Heap), MmBrk: address(Heap),
		MmArgStart: address(Stack), MmArgEnd: address(Stack), MmEnvStart: address(Stack), MmEnvEnd: address(Stack),
		ExeFileId: proto.Uint32(Program), MmSavedAuxv: []uint64{6, Page, 0, 0}, Vmas: mappings, Dumpable: proto.Int32(1),
	})}
	maps.Copy(images, Pages(fmt.Sprintf("pagemap-%d.img", pid), "PAGEMAP", pagesID, ranges...))
	return images
}

// Mapping returns private anonymous memory.
func Mapping(start, pages uint64, change ...func(*vma.VmaEntry)) *vma.VmaEntry {
	e := &vma.VmaEntry{
		Start: proto.Uint64(start), End: proto.Uint64(start + pages*Page), Pgoff: proto.Uint64(0), Shmid: proto.Uint64(0),
		Prot: proto.Uint32(3), Flags: proto.Uint32(0x22), Status: proto.Uint32(0x201), Fd: proto.Int64(-1),
	}
	for _, f := range change {
		f(e)
	}
	return e
}

// Range is a number of pages in their order.
type Range struct{ Start, Pages uint64 }

// Pages returns a pagemap and its pages, which are empty, as CRIU 4.2 writes them.
func Pages(name, kind string, pagesID uint32, ranges ...Range) map[string]string {
	entries := []proto.Message{&pagemap.PagemapHead{PagesId: &pagesID}}
	var sum uint64
	for _, r := range ranges {
		e := &pagemap.PagemapEntry{Vaddr: proto.Uint64(r.Start), NrPages: proto.Uint32(0), Flags: proto.Uint32(4)}
		Later(e, 5, r.Pages)
		entries, sum = append(entries, e), sum+r.Pages
	}
	return map[string]string{
		name: Image(kind, entries...), fmt.Sprintf("pages-%d.img", pagesID): strings.Repeat("\x00", int(sum*Page)),
	}
}
