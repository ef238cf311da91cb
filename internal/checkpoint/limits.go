package checkpoint

import (
	"fmt"

	"github.com/containerd/errdefs"
)

// Limits bound everything that is read from a checkpoint, which is data from a
// stranger. A limit of zero allows nothing; start from [DefaultLimits].
type Limits struct {
	// MetadataBytes is the size of each JSON file: config.dump, spec.dump,
	// deleted.files, checkpoint/descriptors.json.
	MetadataBytes int64
	// LogBytes is the size of the container log.
	LogBytes int64
	// DiffBytes is the size of rootfs-diff.tar after decompression.
	DiffBytes int64
	// ArchiveBytes is the sum of the sizes of an archive's entries, after
	// decompression.
	ArchiveBytes int64
	// Entries is the number of entries of an archive, of the unpacked tree, of
	// rootfs-diff.tar, and of values in a JSON file, each.
	Entries int
}

// The keys of the node's configuration that set the limits, for messages.
const (
	keyMetadata = "max_metadata_size"
	keyLog      = "max_log_size"
	keyDiff     = "max_diff_size"
	keyArchive  = "max_archive_size"
	keyEntries  = "max_entries"
)

// DefaultLimits returns limits that no honest checkpoint seen so far comes near.
func DefaultLimits() Limits {
	return Limits{
		// A pod fits into an etcd request (1.5 MiB), and the OCI spec of its
		// container is not much larger. deleted.files needs the rest: some
		// 100,000 paths.
		MetadataBytes: 8 << 20,
		// kubelet rotates logs at 10 MiB (containerLogMaxSize), and only the
		// current file is in a checkpoint. Nodes that rotate later still fit.
		LogBytes: 64 << 20,
		// What a container wrote to its writable layer. More than this belongs
		// into a volume, and volumes are not in a checkpoint.
		DiffBytes: 10 << 30,
		// Mostly the memory of the container, and the disk that unpacking fills.
		ArchiveBytes: 64 << 30,
		// CRIU writes about six images per process. A writable layer after an
		// npm or pip install has some 100,000 files.
		Entries: 250_000,
	}
}

// exceeds is the error for something that is larger than its limit. what names
// it, found may be "" if it was not read to its end.
func exceeds(what, found string, allowed int64, unit, key string) error {
	if found != "" {
		found = " has " + found + " " + unit + ","
	} else {
		found = ":"
	}
	return fmt.Errorf("%s%s more than the allowed %d %s: if that is right, raise %s: %w",
		what, found, allowed, unit, key, errdefs.ErrResourceExhausted)
}
