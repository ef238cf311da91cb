package criu

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/stats"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
)

func statsFile(t *testing.T, entry *stats.StatsEntry) []byte {
	t.Helper()
	data, err := proto.Marshal(entry)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Concat(statsMagic, binary.LittleEndian.AppendUint32(nil, uint32(len(data))), data)
}

func TestReadRestoreStats(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadRestoreStats(dir); !errdefs.IsNotFound(err) {
		t.Errorf("without a file: %v", err)
	}
	good := statsFile(t, &stats.StatsEntry{Restore: &stats.RestoreStatsEntry{
		PagesCompared: proto.Uint64(1), PagesSkippedCow: proto.Uint64(2), ForkingTime: proto.Uint32(3000),
		RestoreTime: proto.Uint32(4000), PagesRestored: proto.Uint64(5),
	}})
	file := filepath.Join(dir, "stats-restore")
	write := func(data []byte) {
		t.Helper()
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(good)
	got, err := ReadRestoreStats(dir)
	if err != nil {
		t.Fatal(err)
	}
	if want := (RestoreStats{Forking: 3 * time.Millisecond, Restoring: 4 * time.Millisecond, Pages: 5}); *got != want {
		t.Errorf("got %+v, want %+v", *got, want)
	}
	for name, data := range map[string][]byte{
		"empty": nil, "cut": good[:len(good)-1], "longer": append(slices.Clone(good), 0),
		"another magic": append([]byte{1}, good[1:]...),
		"of a dump":     statsFile(t, &stats.StatsEntry{}), "too long": make([]byte, maxStats+1),
		"no message": slices.Concat(statsMagic, []byte{1, 0, 0, 0, 0xff}),
	} {
		write(data)
		if got, err := ReadRestoreStats(dir); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
