package restore

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

const oldLog = "2026-11-23T08:00:01Z stdout F count 1\n"

func TestCopyLog(t *testing.T) {
	for name, c := range map[string]struct {
		before *string
		path   string
		after  string
		undone []string // what is left when it is taken back
	}{
		"new file":          {nil, "0.log", oldLog, []string{}},
		"new directories":   {nil, "a/b/0.log", oldLog, []string{}},
		"empty file":        {new(string), "0.log", oldLog, []string{}},
		"a former attempt":  {ptr("first\n"), "0.log", "first\n" + oldLog, []string{"0.log"}},
		"existing, in path": {ptr("first\n"), "d/0.log", "first\n" + oldLog, []string{"d", "d/0.log"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, c.path)
			if c.before != nil {
				write(t, dir, map[string]string{c.path: *c.before})
			}
			undo, err := CopyLog(t.Context(), open(t, map[string]string{"container.log": oldLog}), path)
			check(t, err)
			if data, err := os.ReadFile(path); err != nil || string(data) != c.after {
				t.Errorf("%q, %v", data, err)
			}
			if c.before == nil {
				fi, err := os.Stat(path)
				check(t, err)
				if fi.Mode().Perm() != 0o640 {
					t.Errorf("mode %o", fi.Mode().Perm())
				}
			}
			check(t, undo())
			if got := names(t, dir); !slices.Equal(got, c.undone) && len(got)+len(c.undone) > 0 {
				t.Errorf("left %q, want %q", got, c.undone)
			}
			if len(c.undone) > 0 {
				if data, err := os.ReadFile(path); err != nil || string(data) != *c.before {
					t.Errorf("after undo %q, %v", data, err)
				}
			}
		})
	}
}

func ptr[T any](v T) *T { return &v }

func TestNothingToCopy(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		files map[string]string
		path  string
	}{
		"no path":     {map[string]string{"container.log": oldLog}, ""},
		"no log":      {nil, filepath.Join(dir, "a", "0.log")},
		"other's log": {map[string]string{"ctr.log": oldLog}, filepath.Join(dir, "a", "0.log")},
	} {
		undo, err := CopyLog(t.Context(), open(t, c.files), c.path)
		if err != nil || undo == nil || undo() != nil || len(names(t, dir)) > 0 {
			t.Errorf("%s: %v, %q", name, err, names(t, dir))
		}
	}
}

// None of these may block, and none may be written.
func TestNoRegularFileAtTheLogPath(t *testing.T) {
	for name, c := range map[string]func(t *testing.T, dir, path string){
		"symlink":          func(t *testing.T, dir, path string) { check(t, os.Symlink(filepath.Join(dir, "victim"), path)) },
		"dangling symlink": func(t *testing.T, dir, path string) { check(t, os.Symlink(filepath.Join(dir, "new"), path)) },
		"directory":        func(t *testing.T, _, path string) { check(t, os.Mkdir(path, 0o700)) },
		"FIFO":             func(t *testing.T, _, path string) { check(t, unix.Mkfifo(path, 0o600)) },
		"FIFO with a reader": func(t *testing.T, _, path string) {
			check(t, unix.Mkfifo(path, 0o600))
			f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
			check(t, err)
			t.Cleanup(func() {
				if n, _ := f.Read(make([]byte, 1)); n > 0 {
					t.Error("the FIFO was written")
				}
				f.Close()
			})
		},
		"device": func(t *testing.T, _, path string) {
			check(t, unix.Mknod(path, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string]string{"victim": "kept"})
			path := filepath.Join(dir, "0.log")
			c(t, dir, path)
			undo, err := CopyLog(t.Context(), open(t, map[string]string{"container.log": oldLog}), path)
			wantError(t, err, errdefs.IsInvalidArgument, path)
			check(t, undo())
			if data, err := os.ReadFile(filepath.Join(dir, "victim")); err != nil || string(data) != "kept" {
				t.Errorf("%q, %v", data, err)
			}
			if got := names(t, dir); !slices.Equal(got, []string{"0.log", "victim"}) {
				t.Errorf("left %q", got)
			}
		})
	}
}

func TestLogBelowAFile(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"file": ""})
	undo, err := CopyLog(t.Context(), open(t, map[string]string{"container.log": oldLog}),
		filepath.Join(dir, "file", "a", "0.log"))
	if !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("%v", err)
	}
	check(t, undo())
}

func TestLogTooLarge(t *testing.T) {
	l := checkpoint.DefaultLimits()
	l.LogBytes = int64(len(oldLog)) - 1
	path := filepath.Join(t.TempDir(), "0.log")
	_, err := CopyLog(t.Context(), openWithin(t, map[string]string{"container.log": oldLog}, l), path)
	wantError(t, err, errdefs.IsResourceExhausted, "max_log_size")
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// endsAfter is a context that ends after it was asked so many times.
type endsAfter struct {
	context.Context
	left int
}

func (c *endsAfter) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

func TestCopyLogEndsWithItsContext(t *testing.T) {
	long := strings.Repeat(oldLog, 10_000)
	for _, before := range []string{"", "first\n"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "d", "0.log")
		if before != "" {
			write(t, dir, map[string]string{"d/0.log": before})
		}
		undo, err := CopyLog(&endsAfter{t.Context(), 2}, open(t, map[string]string{"container.log": long}), path)
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "0.log") {
			t.Fatalf("%v", err)
		}
		check(t, undo())
		data, err := os.ReadFile(path)
		if before == "" {
			if len(names(t, dir)) > 0 {
				t.Errorf("left %q", names(t, dir))
			}
		} else if err != nil || string(data) != before {
			t.Errorf("%d bytes, %v", len(data), err)
		}
	}
}
