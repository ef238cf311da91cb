package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// dumping writes a checkpoint as CRIU does: files of pages grow one after the other, in parts, while the compressor
// looks on. pause is called between the parts.
func dumping(t *testing.T, dir string, pause func()) map[string][]byte {
	t.Helper()
	files := map[string][]byte{
		"config.dump":            []byte("{}"),
		"checkpoint/core-1.img":  []byte("core"),
		"checkpoint/tmpfs-1.img": bytes.Repeat([]byte("t"), maxHeadFile+1),
		"rootfs-diff.tar":        bytes.Repeat([]byte("d"), 3*maxHeadFile),
		// With numbers whose order is not that of their names, one of them empty.
		"checkpoint/pages-1.img": nil, "checkpoint/pages-2.img": nil, "checkpoint/pages-10.img": nil,
		"checkpoint/pages-3.img": {},
	}
	if err := os.MkdirAll(filepath.Join(dir, "checkpoint"), 0o700); err != nil {
		t.Fatal(err)
	}
	random := rand.NewChaCha8([32]byte{})
	for _, p := range []struct {
		name  string
		parts int
	}{{"checkpoint/pages-1.img", 3}, {"checkpoint/pages-2.img", 9}, {"checkpoint/pages-3.img", 0},
		{"checkpoint/pages-10.img", 1}} {
		f, err := os.Create(filepath.Join(dir, p.name))
		if err != nil {
			t.Fatal(err)
		}
		for range p.parts {
			part := make([]byte, 300<<10)
			_, _ = random.Read(part[:200<<10])
			if _, err := f.Write(part); err != nil {
				t.Fatal(err)
			}
			files[p.name] = append(files[p.name], part...)
			pause()
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range files {
		if content == nil || bytes.HasPrefix([]byte(name), []byte("checkpoint/pages-")) {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// compressor returns one for a new directory of each of the two kinds of file system.
func compressor(t *testing.T, parent string) (c *Compressor, dir, file string) {
	t.Helper()
	top := filepath.Join(parent, strings.ReplaceAll(t.Name(), "/", "_"))
	if err := os.Mkdir(top, 0o700); err != nil {
		t.Fatal(err)
	}
	dir, file = filepath.Join(top, "checkpoint"), filepath.Join(top, "archive")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	c, err := NewCompressor(dir, top)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c, dir, file
}

// However fast CRIU and the compressor are, the archive has what CRIU has written.
func TestCompressor(t *testing.T) {
	for kind, parent := range map[string]string{"disk": t.TempDir(), "memory": memoryDir(t)} {
		tick := time.NewTicker(20 * time.Millisecond) // long enough for a busy machine
		defer tick.Stop()
		for pace, pause := range map[string]func(){"fast": func() {}, "slow": func() { <-tick.C }} {
			t.Run(kind+" "+pace, func(t *testing.T) {
				c, dir, file := compressor(t, parent)
				files := dumping(t, dir, pause)
				if pace == "slow" {
					c.stop()
					if c.current == 0 {
						t.Error("nothing was compressed while it was written")
					}
				}
				if err := c.Archive(t.Context(), dir, file); err != nil {
					t.Fatal(err)
				}
				fi, err := os.Stat(file)
				if err != nil || fi.Mode() != 0o600 || fi.Size() > 8<<20 {
					t.Errorf("%v, %v", fi, err)
				}
				requireUnpacks(t, file, files)
			})
		}
	}
}

// A file of pages that grows after the next one was begun is compressed again.
func TestCompressorOfLatecomer(t *testing.T) {
	c, dir, file := compressor(t, t.TempDir())
	files := dumping(t, dir, func() {})
	c.stop()
	if err := c.advance(); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	late := files["checkpoint/pages-1.img"]
	f, err := os.OpenFile(filepath.Join(dir, "checkpoint/pages-1.img"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Write(late[:4096])
	if err = errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	files["checkpoint/pages-1.img"] = append(late, late[:4096]...)
	if err := c.Archive(t.Context(), dir, file); err != nil {
		t.Fatal(err)
	}
	requireUnpacks(t, file, files)
}

// A checkpoint without pages, and requests that end.
func TestCompressorFails(t *testing.T) {
	c, dir, file := compressor(t, t.TempDir())
	files := map[string][]byte{"config.dump": []byte("{}")}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "checkpoint"), 0o700),
		os.WriteFile(filepath.Join(dir, "config.dump"), files["config.dump"], 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := c.Archive(t.Context(), dir, file); err != nil {
		t.Fatal(err)
	}
	requireUnpacks(t, file, files)

	c, dir, file = compressor(t, t.TempDir())
	dumping(t, dir, func() {})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Archive(ctx, dir, file); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if _, err := os.Lstat(file); err == nil {
		t.Error("an archive was made")
	}

	c, dir, file = compressor(t, t.TempDir())
	if err := c.Archive(t.Context(), dir, file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("nothing was dumped: %v", err)
	}
	if _, err := NewCompressor(filepath.Join(dir, "absent"), dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
