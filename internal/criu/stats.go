package criu

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cri-restore/cri-restore/internal/regular"
)

// RestoreStats are CRIU's own numbers of a restore (images/stats.proto, restore_stats_entry).
type RestoreStats struct {
	// Forking is the time it took to make the processes, Restoring all of it.
	Forking, Restoring time.Duration
	// Pages is how many pages CRIU has written into the processes: in a lazy restore those that could not wait.
	Pages uint64
}

// maxStats bounds the file, which has some 50 bytes.
const maxStats = 4 << 10

// ReadRestoreStats reads the file stats-restore in CRIU's work directory. It is not decoded by go-criu, whose package
// for it cannot be linked into containerd. The error is of class errdefs.ErrNotFound if there is none.
func ReadRestoreStats(work string) (*RestoreStats, error) {
	f, size, err := regular.Open(filepath.Join(work, "stats-restore"))
	if err != nil {
		return nil, fmt.Errorf("criu's statistics: %w", err)
	}
	defer f.Close()
	if size > maxStats {
		return nil, fmt.Errorf("criu's statistics: %d bytes: %w", size, errdefs.ErrInvalidArgument)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxStats))
	if err != nil {
		return nil, fmt.Errorf("criu's statistics: %w", err)
	}
	s, err := parseRestoreStats(data)
	if err != nil {
		return nil, fmt.Errorf("criu's statistics: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	return s, nil
}

// The beginning of the file (criu/include/magic.h: IMG_SERVICE_MAGIC, STATS_MAGIC).
var statsMagic = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, 0x55105940), 0x57093306)

func parseRestoreStats(data []byte) (*RestoreStats, error) {
	rest, ok := bytes.CutPrefix(data, statsMagic)
	if !ok || len(rest) < 4 {
		return nil, fmt.Errorf("it begins with %x", data[:min(len(data), 12)])
	}
	size := binary.LittleEndian.Uint32(rest)
	if uint64(size) != uint64(len(rest)-4) {
		return nil, fmt.Errorf("%d bytes instead of %d", len(rest)-4, size)
	}
	var s *RestoreStats
	err := fields(rest[4:], func(n protowire.Number, value []byte, _ uint64) error {
		if n != 2 { // restore
			return nil
		}
		s = &RestoreStats{}
		return fields(value, func(n protowire.Number, _ []byte, v uint64) error {
			switch n {
			case 3:
				s.Forking = time.Duration(v) * time.Microsecond
			case 4:
				s.Restoring = time.Duration(v) * time.Microsecond
			case 5:
				s.Pages = v
			}
			return nil
		})
	})
	if err == nil && s == nil {
		err = fmt.Errorf("nothing of a restore in it")
	}
	return s, err
}

// fields calls f with every field of a message that is a number or a message.
func fields(b []byte, f func(n protowire.Number, value []byte, number uint64) error) error {
	for len(b) > 0 {
		n, kind, size := protowire.ConsumeTag(b)
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		var (
			value  []byte
			number uint64
		)
		switch kind {
		case protowire.VarintType:
			number, size = protowire.ConsumeVarint(b)
		case protowire.BytesType:
			value, size = protowire.ConsumeBytes(b)
		default:
			size = protowire.ConsumeFieldValue(n, kind, b)
		}
		if size < 0 {
			return protowire.ParseError(size)
		}
		b = b[size:]
		if err := f(n, value, number); err != nil {
			return err
		}
	}
	return nil
}
