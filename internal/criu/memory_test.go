package criu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/eventpoll"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
)

// regularFile is an entry of files.img as CRIU writes it; small is the smallest that there can be.
func regularFile(id uint32, name string) *fdinfo.FileEntry {
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: proto.Uint32(id), Reg: &regfile.RegFileEntry{
		Id: proto.Uint32(id), Flags: proto.Uint32(0), Pos: proto.Uint64(0), Name: proto.String(name), MntId: proto.Int32(7),
		Size: proto.Uint64(1), Mode: proto.Uint32(0o644),
		Fown: &fown.FownEntry{Uid: proto.Uint32(0), Euid: proto.Uint32(0), Signum: proto.Uint32(0), PidType: proto.Uint32(0),
			Pid: proto.Uint32(0)},
	}}
}

func epoll(id uint32, targets int) *fdinfo.FileEntry {
	e := &eventpoll.EventpollFileEntry{Id: proto.Uint32(id), Flags: proto.Uint32(0), Fown: &fown.FownEntry{
		Uid: proto.Uint32(0), Euid: proto.Uint32(0), Signum: proto.Uint32(0), PidType: proto.Uint32(0), Pid: proto.Uint32(0)}}
	for i := range targets {
		e.Tfd = append(e.Tfd, &eventpoll.EventpollTfdEntry{Id: proto.Uint32(id), Tfd: proto.Uint32(uint32(i)),
			Events: proto.Uint32(1), Data: proto.Uint64(1)})
	}
	return &fdinfo.FileEntry{Type: fdinfo.FdTypes_EVENTPOLL.Enum(), Id: proto.Uint32(id), Epfd: e}
}

func files(t *testing.T, n int, entry func(i uint32) *fdinfo.FileEntry) *Images {
	t.Helper()
	var entries []proto.Message
	for i := range n {
		entries = append(entries, entry(uint32(i)))
	}
	data, err := Encode("FILES", entries...)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "files.img"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := OpenImages(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What is counted for decoded messages is no less than they take.
func TestMemory(t *testing.T) {
	for name, entry := range map[string]func(i uint32) *fdinfo.FileEntry{
		"regular files": func(i uint32) *fdinfo.FileEntry { return regularFile(i, fmt.Sprintf("/usr/lib/%d.so", i)) },
		"no names":      func(i uint32) *fdinfo.FileEntry { return regularFile(i, "") },
		"epoll":         func(i uint32) *fdinfo.FileEntry { return epoll(i, 50) },
	} {
		s := files(t, 5000, entry)
		before := heap()
		all, err := Entries[*fdinfo.FileEntry](s, "files.img", "FILES")
		if err != nil {
			t.Fatal(err)
		}
		if took := heap() - before; took > s.kept || s.kept > 4*took {
			t.Errorf("%s: %d entries took %d bytes, counted were %d", name, len(all), took, s.kept)
		}
		runtime.KeepAlive(all)
	}
}

// 400,000 files, which are 34 MiB, are not looked at, whatever else is in order with them; 100,000 are.
func TestTooMuchMemory(t *testing.T) {
	entry := func(i uint32) *fdinfo.FileEntry { return regularFile(i, "/usr/lib/x.so") }
	if _, err := Entries[*fdinfo.FileEntry](files(t, 400_000, entry), "files.img",
		"FILES"); !errdefs.IsResourceExhausted(err) || errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
	if _, err := Entries[*fdinfo.FileEntry](files(t, 100_000, entry), "files.img", "FILES"); err != nil {
		t.Error(err)
	}
}

func TestEntriesEndWithTheContext(t *testing.T) {
	s := files(t, 10, func(i uint32) *fdinfo.FileEntry { return regularFile(i, "") })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s.Until(ctx)
	if _, err := Entries[*fdinfo.FileEntry](s, "files.img", "FILES"); !errors.Is(err, context.Canceled) ||
		errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
	s.Until(t.Context())
	if all, err := Entries[*fdinfo.FileEntry](s, "files.img", "FILES"); err != nil || len(all) != 10 {
		t.Errorf("%d entries, %v", len(all), err)
	}
}
