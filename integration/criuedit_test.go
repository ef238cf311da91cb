package integration

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// imagesDir is where a checkpoint has its CRIU images.
const imagesDir = "checkpoint/"

// Fields of creds_entry that CRIU 4.2 writes and go-criu does not know (CRIU: images/creds.proto).
const (
	credsNoNewPrivs = 18
	credsCapAmbient = 19
)

// imageEditor changes the CRIU images of a checkpoint, as an attacker would.
//
// Every method reads and writes the files, so that they can be mixed. Those
// that decode an image fail the test if it is malformed: harm that is done with Write comes last.
type imageEditor struct {
	t   testing.TB
	dir string
}

// editImages writes the archive again with other CRIU images. Everything else in it stays. The
// new archive is next to the old one until the test ends.
func editImages(t testing.TB, archive string, change func(*imageEditor)) string {
	t.Helper()
	e := &imageEditor{t: t, dir: t.TempDir()}
	var rest []tarEntry
	for _, entry := range entriesOf(t, archive) {
		if name, ok := strings.CutPrefix(path.Clean(entry.Name), imagesDir); ok && entry.Typeflag == tar.TypeReg {
			e.Write(name, entry.content)
		} else {
			rest = append(rest, entry)
		}
	}
	change(e)
	for _, name := range e.Names() {
		rest = append(rest, regularEntry(imagesDir+name, string(e.Read(name))))
	}
	out := strings.TrimSuffix(archive, ".tar") + unique("-images") + ".tar"
	writeHostFile(t, out, string(packed(t, rest)))
	t.Cleanup(func() { os.Remove(out) })
	return out
}

// Names returns the names of all images.
func (e *imageEditor) Names() []string {
	e.t.Helper()
	return fileNames(e.t, e.dir)
}

// Name returns the name of the one image that matches a pattern, such as "mountpoints-*.img".
func (e *imageEditor) Name(pattern string) string {
	e.t.Helper()
	found := e.matching(pattern)
	if len(found) != 1 {
		e.t.Fatalf("images %s: %q, want one", pattern, found)
	}
	return found[0]
}

func (e *imageEditor) matching(pattern string) []string {
	e.t.Helper()
	return slices.DeleteFunc(e.Names(), func(name string) bool {
		ok, err := path.Match(pattern, name)
		return !ok || err != nil
	})
}

// Read returns an image as it is.
func (e *imageEditor) Read(name string) []byte {
	e.t.Helper()
	content, err := os.ReadFile(filepath.Join(e.dir, name))
	if err != nil {
		e.t.Fatal(err)
	}
	return content
}

// Write writes a file, which need not have been there.
func (e *imageEditor) Write(name string, content []byte) {
	e.t.Helper()
	if err := os.WriteFile(filepath.Join(e.dir, name), content, 0o600); err != nil {
		e.t.Fatal(err)
	}
}

// Add writes an image of the given kind (the name of its magic number without "_MAGIC").
func (e *imageEditor) Add(name, kind string, entries ...proto.Message) {
	e.t.Helper()
	content, err := criu.Encode(kind, entries...)
	if err != nil {
		e.t.Fatal(err)
	}
	e.Write(name, content)
}

// Remove removes a file.
func (e *imageEditor) Remove(name string) {
	e.t.Helper()
	if err := os.Remove(filepath.Join(e.dir, name)); err != nil {
		e.t.Fatal(err)
	}
}

// Images opens the images as they are now, for reading.
func (e *imageEditor) Images() *criu.Images {
	e.t.Helper()
	images, err := criu.OpenImages(e.dir)
	if err != nil {
		e.t.Fatal(err)
	}
	e.t.Cleanup(func() { images.Close() })
	return images
}

// editEntries replaces the entries of an image that has only one kind of them.
func editEntries[M proto.Message](e *imageEditor, name, kind string, change func([]M) []M) {
	e.t.Helper()
	entries, err := criu.Entries[M](e.Images(), name, kind)
	if err != nil {
		e.t.Fatal(err)
	}
	changed := change(entries)
	messages := make([]proto.Message, len(changed))
	for i, m := range changed {
		messages[i] = m
	}
	e.Add(name, kind, messages...)
}

// editEntry changes each entry of an image that has only one kind of them.
func editEntry[M proto.Message](e *imageEditor, name, kind string, change func(M)) {
	e.t.Helper()
	editEntries(e, name, kind, func(entries []M) []M {
		for _, m := range entries {
			change(m)
		}
		return entries
	})
}

// Core changes the core image of a thread. That of a process is the one of the thread with its ID.
func (e *imageEditor) Core(tid uint32, change func(*criu_core.CoreEntry)) {
	e.t.Helper()
	editEntry(e, criu.CoreName(tid), "CORE", change)
}

// EachThread changes the core images of all threads of all processes.
func (e *imageEditor) EachThread(change func(tid uint32, core *criu_core.CoreEntry)) {
	e.t.Helper()
	for _, p := range e.Processes() {
		for _, tid := range p.GetThreads() {
			e.Core(tid, func(core *criu_core.CoreEntry) { change(tid, core) })
		}
	}
}

// Processes returns the processes, the container's first one first.
func (e *imageEditor) Processes() []*criu.Process {
	e.t.Helper()
	processes, err := e.Images().Processes()
	if err != nil {
		e.t.Fatal(err)
	}
	return processes
}

// LastProcess returns the ID of a process that is not the first one.
func (e *imageEditor) LastProcess() uint32 {
	e.t.Helper()
	all := e.Processes()
	if len(all) < 2 {
		e.t.Fatal("the checkpoint has only one process")
	}
	return all[len(all)-1].GetPid()
}

// LastThread returns the ID of a thread that is not the first one of the first process.
func (e *imageEditor) LastThread() uint32 {
	e.t.Helper()
	threads := e.Processes()[0].GetThreads()
	if len(threads) < 2 {
		e.t.Fatal("the first process has only one thread")
	}
	return threads[len(threads)-1]
}

// Mounts replaces the mounts.
func (e *imageEditor) Mounts(change func([]*mnt.MntEntry) []*mnt.MntEntry) {
	e.t.Helper()
	editEntries(e, e.Name("mountpoints-*.img"), "MNTS", change)
}

// Mount changes the mount at a path of the container.
func (e *imageEditor) Mount(mountpoint string, change func(*mnt.MntEntry)) {
	e.t.Helper()
	found := 0
	e.Mounts(func(all []*mnt.MntEntry) []*mnt.MntEntry {
		for _, m := range all {
			if path.Join("/", m.GetMountpoint()) == mountpoint {
				change(m)
				found++
			}
		}
		return all
	})
	if found != 1 {
		e.t.Fatalf("%d mounts at %s, want one", found, mountpoint)
	}
}

// Files replaces the open files.
func (e *imageEditor) Files(change func([]*fdinfo.FileEntry) []*fdinfo.FileEntry) {
	e.t.Helper()
	editEntries(e, "files.img", "FILES", change)
}

// Descriptors replaces the table of file descriptors of a process.
func (e *imageEditor) Descriptors(pid uint32, change func([]*fdinfo.FdinfoEntry) []*fdinfo.FdinfoEntry) {
	e.t.Helper()
	ids, err := e.Images().IDs(pid)
	if err != nil {
		e.t.Fatal(err)
	}
	editEntries(e, fmt.Sprintf("fdinfo-%d.img", ids.GetFilesId()), "FDINFO", change)
}

// setNumber sets a field that go-criu does not know to a number. It is the only value of it.
func setNumber(m proto.Message, field protowire.Number, value uint64) {
	setNumbers(m, field, value)
}

// setNumbers sets a repeated field that go-criu does not know. Without values the field is gone. The fields stay in
// the order of their numbers, as CRIU writes them.
func setNumbers(m proto.Message, field protowire.Number, values ...uint64) {
	type one struct {
		number  protowire.Number
		encoded []byte
	}
	var all []one
	for b := []byte(m.ProtoReflect().GetUnknown()); len(b) > 0; {
		n, _, size := protowire.ConsumeField(b)
		if size < 0 {
			panic("an unknown field cannot be decoded")
		}
		if n != field {
			all = append(all, one{n, b[:size]})
		}
		b = b[size:]
	}
	for _, v := range values {
		all = append(all, one{field, protowire.AppendVarint(protowire.AppendTag(nil, field, protowire.VarintType), v)})
	}
	slices.SortStableFunc(all, func(a, b one) int { return int(a.number - b.number) })
	var out []byte
	for _, f := range all {
		out = append(out, f.encoded...)
	}
	m.ProtoReflect().SetUnknown(out)
}

// rawEntries takes an image apart that is not the inventory: its two magic numbers, and its encoded entries.
func rawEntries(image []byte) (magic []byte, entries [][]byte) {
	magic = image[:8]
	for b := image[8:]; len(b) > 0; {
		end := 4 + binary.LittleEndian.Uint32(b)
		entries = append(entries, b[4:end])
		b = b[end:]
	}
	return magic, entries
}

// rawImage puts an image together of magic numbers and encoded entries.
func rawImage(magic []byte, entries ...[]byte) []byte {
	out := slices.Clone(magic)
	for _, e := range entries {
		out = append(binary.LittleEndian.AppendUint32(out, uint32(len(e))), e...)
	}
	return out
}
