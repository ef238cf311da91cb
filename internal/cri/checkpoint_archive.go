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
	compressor  *checkpoint.Compressor // nil without compression
}

func (t *archiveTarget) place() (dir, name string) {
	return filepath.Dir(t.file), filepath.Base(t.file)
}

func (t *archiveTarget) prepare(_ context.Context, d *dump.Dump) (string, error) {
	dir := filepath.Join(d.Dir(), "checkpoint")
	if err := os.Mkdir(dir, 0o700); err != nil || t.compression != policy.Zstd {
		return dir, err
	}
	var err error
	if t.compressor, err = checkpoint.NewCompressor(dir, d.Dir()); err != nil {
		return "", err
	}
	d.OnEnd(func(context.Context) error { return t.compressor.Close() })
	return dir, nil
}

func (t *archiveTarget) finish(ctx context.Context, d *dump.Dump, dir string) (err error) {
	file := filepath.Join(d.Dir(), "archive")
	if t.compressor != nil {
		err = t.compressor.Archive(ctx, dir, file)
	} else {
		d.Times.InPlace, err = checkpoint.WriteArchive(ctx, dir, file)
	}
	if err != nil {
		return err
	}
	return checkpoint.Place(ctx, file, t.file)
}
