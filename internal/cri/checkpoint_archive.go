package cri

import (
	"context"
	"os"
	"path/filepath"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/dump"
	"github.com/cri-restore/cri-restore/internal/policy"
)

// archiveTarget makes an archive. All of it happens beside the archive, on one file system, so that
// what CRIU has written need not be written again.
type archiveTarget struct {
	file        string
	compression policy.Compression
}

func (t *archiveTarget) place() (dir, name string) {
	return filepath.Dir(t.file), filepath.Base(t.file)
}

func (t *archiveTarget) prepare(_ context.Context, d *dump.Dump) (string, error) {
	dir := filepath.Join(d.Dir(), "checkpoint")
	return dir, os.Mkdir(dir, 0o700)
}

func (t *archiveTarget) finish(ctx context.Context, d *dump.Dump, dir string) error {
	file := filepath.Join(d.Dir(), "archive")
	write := checkpoint.WriteArchive
	if t.compression == policy.Zstd {
		write = checkpoint.WriteCompressed
	}
	inPlace, err := write(ctx, dir, file)
	if err != nil {
		return err
	}
	d.Times.InPlace = inPlace
	return checkpoint.Place(file, t.file)
}
