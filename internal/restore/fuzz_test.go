package restore

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// fuzzLimits are small, so that a target gets to them.
func fuzzLimits() checkpoint.Limits {
	l := checkpoint.DefaultLimits()
	l.DiffBytes, l.LogBytes, l.Entries = 64<<10, 64<<10, 64
	return l
}

// FuzzRootfs checks that whatever rootfs-diff.tar and deleted.files hold, only the root file
// system is changed, within the limits, with nothing in it that no container can make, or there is an error with
// a class. Links of the root file system that lead out of it mean something within.
func FuzzRootfs(f *testing.F) {
	link := special(tar.TypeSymlink, "link", "../secret")
	for _, seed := range [][]entry{
		{file("data/new", "x"), special(tar.TypeDir, "data/dir/", ""), file("data/.wh.kept", ""),
			file("dir/.wh..wh..opq", "")},
		{link, file("link/evil", "x"), special(tar.TypeLink, "hard", "data/kept")},
		{file("base-link/evil", "x"), file("base-link/.wh.file", ""), special(tar.TypeFifo, "fifo", "")},
		{file("../evil", "x"), file("/evil", "x"), file(".wh...", "")},
		{special(tar.TypeChar, "dev", ""), special(tar.TypeLink, "x", "link/file")},
		{file("a", "x"), file("a/b", "x"), special(tar.TypeDir, "a", ""), special(tar.TypeSymlink, "a", "a"),
			file("a/c", "")},
	} {
		diff := tarball(f, seed...)
		f.Add([]byte(diff), `["/data/kept"]`)
		f.Add([]byte(diff), ``)
	}
	f.Add([]byte("no tar"), `["/base-link/file","/link/file","/data/../x","relative","/"]`)
	f.Add([]byte{}, `["/base-link"]`)

	f.Fuzz(func(t *testing.T, diff []byte, deleted string) {
		node := t.TempDir()
		root, secret := filepath.Join(node, "rootfs"), filepath.Join(node, "secret")
		write(t, secret, map[string]string{"file": "secret", "sub/file": "secret"})
		write(t, root, map[string]string{"data/kept": "kept", "dir/sub/file": "x"})
		check(t, os.Symlink("../secret", filepath.Join(root, "base-link")))
		check(t, os.Symlink(secret, filepath.Join(root, "absolute-link")))
		before := names(t, root)
		more := map[string]string{"rootfs-diff.tar": string(diff)}
		if deleted != "" {
			more["deleted.files"] = deleted
		}
		l := fuzzLimits()
		dir := filepath.Join(node, "checkpoint")
		write(t, dir, checkpointFiles())
		write(t, dir, more)
		c, err := checkpoint.Open(dir, l)
		check(t, err)
		defer c.Close()

		err = applyAll(t, c, root, l)
		if err != nil && !errdefs.IsInvalidArgument(err) && !errdefs.IsResourceExhausted(err) {
			t.Errorf("without a class: %v", err)
		}
		if got := names(t, secret); !slices.Equal(got, []string{"file", "sub", "sub/file"}) {
			t.Errorf("the node's files became %q", got)
		}
		for _, name := range []string{"file", "sub/file"} {
			if got, err := os.ReadFile(filepath.Join(secret, name)); err != nil || string(got) != "secret" {
				t.Errorf("the node's %s became %q, %v", name, got, err)
			}
		}
		if got, err := os.ReadDir(node); err != nil || len(got) != 3 {
			t.Errorf("beside the root file system: %v, %v", got, err)
		}
		var added, size int64
		check(t, filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			if d.Type()&(fs.ModeDevice|fs.ModeCharDevice|fs.ModeSocket) != 0 {
				t.Errorf("%s: %v", name, info.Mode())
			}
			if strings.HasPrefix(d.Name(), ".wh.") {
				t.Errorf("%s is a whiteout", name)
			}
			if d.Type().IsRegular() {
				size += info.Size()
			}
			added++
			return nil
		}))
		// An entry makes at most the directories of its name, of 4 KiB, besides itself.
		if added > int64(len(before)+1+l.Entries*2048) || size > l.DiffBytes+int64(l.Entries)*8<<10 {
			t.Errorf("%d entries, %d bytes", added, size)
		}
		// The reference: paths as the file says them, all of them absolute and none of them the root.
		var paths []string
		if err == nil && json.Unmarshal([]byte(deleted), &paths) == nil {
			for _, p := range paths {
				if !strings.HasPrefix(p, "/") || filepath.Clean(p) == "/" || slices.Contains(strings.Split(p, "/"), "..") {
					t.Errorf("deleted.files with %q was accepted", p)
				}
			}
		}
	})
}

// applyAll is ApplyRootfs without the mount.
func applyAll(t *testing.T, c *checkpoint.Checkpoint, root string, l checkpoint.Limits) error {
	diff, err := c.OpenRootfsDiff(t.Context())
	if err != nil {
		return err
	}
	defer diff.Close()
	deleted, err := c.DeletedFiles()
	if err != nil {
		return err
	}
	if err := removeFiles(root, deleted); err != nil {
		return err
	}
	return applyDiff(t.Context(), root, diff, l.Entries, anyEntry)
}

// FuzzCopyLog checks that a log is copied as it is, to the end of what is there, that the next
// line has a line of its own, and that the copy can be taken back.
func FuzzCopyLog(f *testing.F) {
	f.Add([]byte(oldLog), []byte(nil))
	f.Add([]byte(oldLog), []byte("was there\n"))
	f.Add([]byte("cut o"), []byte("\x1b[2J"))
	f.Add([]byte{0}, []byte{'\n'})
	f.Fuzz(func(t *testing.T, old, before []byte) {
		l := fuzzLimits()
		c := openWithin(t, map[string]string{"container.log": string(old)}, l)
		dir := t.TempDir()
		path := filepath.Join(dir, "0.log")
		if len(before) > 0 {
			check(t, os.WriteFile(path, before, 0o640))
		}
		undo, err := CopyLog(t.Context(), c, path)
		if int64(len(old)) > l.LogBytes {
			wantError(t, err, errdefs.IsResourceExhausted, "max_log_size")
			return
		}
		if errdefs.IsResourceExhausted(err) { // it has grown too long
			return
		}
		check(t, err)
		converted, err := io.ReadAll(criLog(bytes.NewReader(old), time.Time{}, l.LogBytes))
		if int64(len(converted)) > l.LogBytes && !bytes.Equal(converted, old) {
			t.Fatalf("%d bytes", len(converted))
		}
		check(t, err)
		want := string(before) + string(converted)
		if len(converted) > 0 && converted[len(converted)-1] != '\n' {
			want += "\n"
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("log %q, %v, want %q", got, err, want)
		}
		check(t, undo())
		got, err := os.ReadFile(path)
		if len(before) == 0 && !os.IsNotExist(err) || len(before) > 0 && string(got) != string(before) {
			t.Errorf("taken back: %q, %v, want %q", got, err, before)
		}
		if left := names(t, dir); len(left) > 1 {
			t.Errorf("beside the log: %q", left)
		}
	})
}
