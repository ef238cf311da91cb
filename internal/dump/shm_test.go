package dump

import (
	"archive/tar"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
)

func TestWriteShm(t *testing.T) {
	boom := errors.New("boom")
	full, empty := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		dir   string
		limit int64
		alone bool
		fails error
		is    func(error) bool
		has   bool
	}{
		"files":                 {dir: full, limit: 1 << 20, alone: true, has: true},
		"no files":              {dir: empty, limit: 1 << 20, alone: true},
		"files of others":       {dir: full, limit: 1 << 20},
		"more than allowed":     {dir: full, limit: 1 << 10, alone: true, is: errdefs.IsResourceExhausted, has: true},
		"it cannot be known":    {dir: full, limit: 1 << 20, fails: boom, is: func(err error) bool { return errors.Is(err, boom) }},
		"the directory is gone": {dir: full + "-none", limit: 1 << 20, alone: true, is: func(err error) bool { return errors.Is(err, fs.ErrNotExist) }},
	} {
		t.Run(name, func(t *testing.T) {
			w, dir := newWorld(t), t.TempDir()
			d, ctx, err := w.store.Begin(w.ctx, &containers.Container{ID: "c"}, w.out(), "c.tar")
			if err != nil {
				t.Fatal(err)
			}
			defer d.End(ctx)
			images, asked := withSegments(t), 0
			d.Shares(Shared{Shm: c.dir, Limit: c.limit, Alone: func(context.Context) (bool, error) {
				asked++
				return c.alone, c.fails
			}})
			err = d.takeShared(ctx, dir, images)
			if asked != 1 {
				t.Errorf("asked %d times", asked)
			}
			// What others have is in the images of those only that are alone, and whose it is therefore.
			if got := len(segmentsOf(t, images)); c.fails == nil && (got == 3) != c.alone {
				t.Errorf("%d segments in the images", got)
			}
			if c.is == nil && err != nil || c.is != nil && !c.is(err) {
				t.Errorf("error %v", err)
			}
			f, err := os.Open(filepath.Join(dir, metadata.DevShmCheckpointTar))
			if (err == nil) != c.has {
				t.Fatalf("written: %v", err)
			}
			if err != nil || c.is != nil {
				return
			}
			defer f.Close()
			if h, err := tar.NewReader(f).Next(); err != nil || h.Name != "file" || h.Size != 7 {
				t.Errorf("%+v, %v", h, err)
			}
		})
	}
}
