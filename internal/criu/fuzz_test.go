package criu

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fs"
	ghost_file "github.com/checkpoint-restore/go-criu/v7/crit/images/ghost-file"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/memfd"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	remap_file_path "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// fuzzed are the kinds of images that decide what a process is given.
var fuzzed = []struct {
	kind string
	zero proto.Message
	read func(*Images, string, string) ([]proto.Message, error)
}{
	{"INVENTORY", &inventory.InventoryEntry{}, entriesOf[*inventory.InventoryEntry]},
	{"PSTREE", &pstree.PstreeEntry{}, entriesOf[*pstree.PstreeEntry]},
	{"CORE", &criu_core.CoreEntry{}, entriesOf[*criu_core.CoreEntry]},
	{"IDS", &criu_core.TaskKobjIdsEntry{}, entriesOf[*criu_core.TaskKobjIdsEntry]},
	{"CREDS", &creds.CredsEntry{}, entriesOf[*creds.CredsEntry]},
	{"MM", &mm.MmEntry{}, entriesOf[*mm.MmEntry]},
	{"FDINFO", &fdinfo.FdinfoEntry{}, entriesOf[*fdinfo.FdinfoEntry]},
	{"FILES", &fdinfo.FileEntry{}, entriesOf[*fdinfo.FileEntry]},
	{"MNTS", &mnt.MntEntry{}, entriesOf[*mnt.MntEntry]},
	{"SECCOMP", &seccomp.SeccompEntry{}, entriesOf[*seccomp.SeccompEntry]},
	{"PAGEMAP", &pagemap.PagemapEntry{}, entriesOf[*pagemap.PagemapEntry]},
	{"FS", &fs.FsEntry{}, entriesOf[*fs.FsEntry]},
	{"REMAP_FPATH", &remap_file_path.RemapFilePathEntry{}, entriesOf[*remap_file_path.RemapFilePathEntry]},
	{"GHOST_FILE", &ghost_file.GhostFileEntry{}, entriesOf[*ghost_file.GhostFileEntry]},
	{"MEMFD_INODE", &memfd.MemfdInodeEntry{}, entriesOf[*memfd.MemfdInodeEntry]},
}

func entriesOf[M proto.Message](s *Images, name, kind string) ([]proto.Message, error) {
	all, err := Entries[M](s, name, kind)
	out := make([]proto.Message, len(all))
	for i, m := range all {
		out[i] = m
	}
	return out, err
}

// FuzzEntries checks that an image of any kind is read as CRIU reads it, or refused: that its
// entries decode to what was encoded, that CRIU's own decoder accepts them, and that none holds a
// field twice, of which CRIU could take the other one.
func FuzzEntries(f *testing.F) {
	for i, k := range fuzzed {
		for _, depth := range []int{0, 1, 4} {
			m := filled(k.zero, depth)
			f.Add(byte(i), fuzzImage(f, k.kind, m))
			f.Add(byte(i), fuzzImage(f, k.kind, m, m))
			payload, err := proto.Marshal(m)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(byte(i), framed(k.kind, payload[:len(payload)/2]))
			f.Add(byte(i), framed(k.kind, append(payload, payload...)))
			f.Add(byte(i), framed(k.kind, protowire.AppendVarint(protowire.AppendTag(payload, 1, protowire.VarintType), 7)))
			f.Add(byte(i), framed(k.kind, protowire.AppendBytes(protowire.AppendTag(payload, 1, protowire.BytesType), nil)))
		}
		f.Add(byte(i), framed(k.kind))
		f.Add(byte(i), append(framed(k.kind), 0xff, 0xff, 0xff, 0xff))
	}
	// Four threads in one packed field are two bytes shorter than as CRIU writes them, and the
	// ID of the process that comes twice is two bytes too many.
	f.Add(byte(1), framed("PSTREE", []byte{8, 5, 8, 6, 16, 0, 24, 5, 32, 5, 42, 4, 5, 6, 7, 8}))
	// A number of 64 bits where CRIU reads 32 of them.
	f.Add(byte(1), framed("PSTREE", []byte{8, 0x85, 0x80, 0x80, 0x80, 0x80, 1, 16, 0, 24, 5, 32, 5, 42}))
	// The type of a file, as a number and as something else.
	f.Add(byte(7), framed("FILES", []byte{8, 1, 16, 7, 10, 0}))

	f.Fuzz(func(t *testing.T, which byte, image []byte) {
		k := fuzzed[int(which)%len(fuzzed)]
		dir := t.TempDir()
		const name = "fuzzed.img"
		if err := os.WriteFile(filepath.Join(dir, name), image, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := OpenImages(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		all, err := k.read(s, name, k.kind)
		runtime.ReadMemStats(&after)
		// A message of Go is larger than an encoded one, by a bounded factor.
		if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20+256*uint64(len(image)) {
			t.Errorf("%d bytes of image took %d bytes of memory", len(image), used)
		}
		requireClassed(t, err)
		if err != nil {
			return
		}
		raw, ok := payloads(k.kind, image)
		if !ok || len(raw) != len(all) {
			t.Fatalf("%d entries were read of %d, whole: %v", len(all), len(raw), ok)
		}
		for i, entry := range raw {
			if why := refusedByCRIU(entry, k.zero.ProtoReflect().Descriptor()); why != "" {
				t.Errorf("entry %d was accepted: %s: %x", i, why, entry)
			}
			again, err := proto.Marshal(all[i])
			if err != nil || len(again) != len(entry) {
				t.Errorf("entry %d of %d bytes was read as one of %d bytes, error %v", i, len(entry), len(again), err)
			}
		}
		encoded, err := Encode(k.kind, all...)
		if err != nil || len(encoded) != len(image) {
			t.Errorf("an image of %d bytes is encoded again as one of %d bytes, error %v", len(image), len(encoded), err)
		}
	})
}

// FuzzProcesses checks that of whatever process tree either everything is told, or nothing.
func FuzzProcesses(f *testing.F) {
	number := func(n uint32) *uint32 { return &n }
	process := func(pid, parent uint32, threads ...uint32) *pstree.PstreeEntry {
		return &pstree.PstreeEntry{Pid: number(pid), Ppid: number(parent), Pgid: number(pid), Sid: number(pid),
			Threads: threads}
	}
	core := filled(&criu_core.CoreEntry{}, 4)
	for _, tree := range [][]proto.Message{
		{process(1, 0, 1)},
		{process(1, 0, 1, 2), process(3, 1, 3)},
		{process(1, 0, 1), process(3, 2, 3), process(2, 1, 2)},
		{process(1, 0, 1), process(1, 1, 1)},
		{process(1, 1, 1)},
		{process(0, 0, 0)},
		{process(1, 0)},
		{},
	} {
		f.Add(fuzzImage(f, "PSTREE", tree...), fuzzImage(f, "CORE", core))
	}
	f.Fuzz(func(t *testing.T, tree, core []byte) {
		dir := t.TempDir()
		images := map[string][]byte{"pstree.img": tree, CoreName(1): core, CoreName(2): core, CoreName(3): core}
		for name, content := range images {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := OpenImages(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		all, err := s.Processes()
		requireClassed(t, err)
		if err != nil {
			return
		}
		seen := map[uint32]bool{}
		for i, p := range all {
			if p.Core.GetTc() == nil || (i == 0) != (p.GetPpid() == 0) || i > 0 && !seen[p.GetPpid()] ||
				len(p.Others)+1 != len(p.GetThreads()) {
				t.Errorf("process %d: %v, threads %v", i, p.PstreeEntry, p.Others)
			}
			for _, tid := range p.GetThreads() {
				if seen[tid] || tid == 0 {
					t.Errorf("thread %d twice, or none", tid)
				}
				seen[tid] = true
			}
		}
	})
}

// FuzzErrorLines checks that whatever CRIU has logged, names of a stranger's files among
// it, a message stays short and on its line.
func FuzzErrorLines(f *testing.F) {
	f.Add([]byte("(00.001) pie: 1: Error (criu/files-reg.c:2): Can't open file a\x1b[2J\n(00.002) Error "+
		"(criu/cr-restore.c:1): Restoring FAILED.\n"), 8, 2048)
	f.Add([]byte("Error ("), 1, 3)
	f.Add([]byte("Error (\xff\xfe\u2028\n\nError (\r\n"), 2, 9)
	f.Add(bytes.Repeat([]byte("x Error (x\n"), 9), 8, 20)
	f.Add([]byte{}, -1, -1)
	f.Fuzz(func(t *testing.T, content []byte, maxLines, maxBytes int) {
		file := filepath.Join(t.TempDir(), "restore.log")
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		maxBytes = min(maxBytes, 1<<20)
		lines, err := ErrorLines(file, maxLines, maxBytes)
		if err != nil {
			t.Fatal(err)
		}
		sum := 0
		for _, line := range lines {
			sum += len(line)
			if strings.ContainsFunc(line, unicode.IsControl) || strings.TrimSpace(line) != line &&
				!strings.HasSuffix(line, "...") {
				t.Errorf("%q", line)
			}
			if maxBytes >= len(errorMark) && !strings.HasPrefix(line, errorMark) && !strings.HasSuffix(line, "...") {
				t.Errorf("no error: %q", line)
			}
		}
		if len(lines) > max(maxLines, 0) || sum > max(maxBytes, 0) {
			t.Errorf("%d lines of %d, %d bytes of %d", len(lines), maxLines, sum, maxBytes)
		}
		if len(lines) > 0 && !bytes.Contains(content, []byte(errorMark)) {
			t.Errorf("errors of a log without one: %q", lines)
		}
	})
}

func requireClassed(t *testing.T, err error) {
	t.Helper()
	if err == nil {
		return
	}
	if !errdefs.IsInvalidArgument(err) {
		t.Errorf("without a class: %v", err)
	}
	if text := err.Error(); len(text) > 1024 || strings.ContainsFunc(text, unicode.IsControl) {
		t.Errorf("error of %d bytes: %q", len(text), text)
	}
}

// TestFuzzedSeeds checks that the whole entries among the seeds are accepted: a target that
// refuses everything would find nothing.
func TestFuzzedSeeds(t *testing.T) {
	var kinds []string
	for _, k := range fuzzed {
		kinds = append(kinds, k.kind)
		for _, depth := range []int{0, 1, 4} {
			payload, err := proto.Marshal(filled(k.zero, depth))
			if err != nil {
				t.Fatal(err)
			}
			if err := Decode(payload, k.zero.ProtoReflect().New().Interface()); err != nil {
				t.Errorf("%s, depth %d: %v", k.kind, depth, err)
			}
			if why := refusedByCRIU(payload, k.zero.ProtoReflect().Descriptor()); why != "" {
				t.Errorf("%s, depth %d: the test itself refuses it: %s", k.kind, depth, why)
			}
		}
	}
	if slices.Sort(kinds); len(slices.Compact(kinds)) != len(fuzzed) {
		t.Error("a kind is there twice")
	}
}
