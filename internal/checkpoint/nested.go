package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
)

// Nested returns the path of the archive that a directory holds in the place of a checkpoint, as an image does into
// which the archive was copied as it is: the only entry, a regular file that begins like a tar, plain, gzip or zstd. It
// returns "" if there is no such file.
func Nested(dir string) (string, error) {
	root, err := openRoot(dir)
	if err != nil {
		return "", err
	}
	defer root.Close()
	d, err := root.Open(".")
	if err != nil {
		return "", err
	}
	names, err := d.Readdirnames(2)
	if cerr := d.Close(); cerr != nil || err != nil && !errors.Is(err, io.EOF) {
		return "", errors.Join(err, cerr)
	}
	if len(names) != 1 {
		return "", nil
	}
	if fi, err := root.Lstat(names[0]); err != nil || !fi.Mode().IsRegular() {
		return "", err
	}
	f, _, err := openRegular(root, names[0])
	if err != nil {
		return "", err
	}
	defer f.Close()
	const magicAt = 257 // of a tar header (POSIX: pax, ustar Interchange Format)
	head := make([]byte, magicAt+5)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("%s: %w", quote(names[0]), err)
	}
	if head = head[:n]; compression.DetectCompression(head) != compression.Uncompressed ||
		len(head) > magicAt && bytes.Equal(head[magicAt:], []byte("ustar")) {
		return filepath.Join(dir, names[0]), nil
	}
	return "", nil
}

// metadataFiles are those that [Open] reads, or wants to be there.
var metadataFiles = []string{metadata.ConfigDumpFile, metadata.SpecDumpFile, bindsFile, inventoryFile, descriptorsFile}

// UnpackMetadata is [Unpack] for those files only that [Open] needs: the pages stay where they are.
func UnpackMetadata(ctx context.Context, archive, dst string, l Limits) error {
	return unpackOnly(ctx, "", archive, dst, l, metadataFiles)
}
