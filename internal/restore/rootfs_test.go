package restore

import (
	"archive/tar"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// rootfs is a root file system, where it is mounted, and a directory of the
// node beside it that nothing may touch.
type rootfs struct {
	t                      *testing.T
	source, target, secret string
	limits                 checkpoint.Limits
}

func newRootfs(t *testing.T, files map[string]string) *rootfs {
	t.Helper()
	dir := mountDir(t)
	r := &rootfs{t: t, source: mkdir(t, dir, "source"), target: mkdir(t, dir, "target"), secret: mkdir(t, dir, "secret"),
		limits: checkpoint.DefaultLimits()}
	write(t, r.source, files)
	write(t, r.secret, map[string]string{"file": "secret", "sub/file": "secret"})
	return r
}

// apply applies the diff and the deleted files. Whatever comes of it, nothing
// stays mounted and the node's files are as they were.
func (r *rootfs) apply(diff string, deleted string) error {
	r.t.Helper()
	more := map[string]string{}
	if diff != "" {
		more["rootfs-diff.tar"] = diff
	}
	if deleted != "" {
		more["deleted.files"] = deleted
	}
	mounts := []mount.Mount{{Type: "bind", Source: r.source, Options: []string{"rbind", "rw"}}}
	err := ApplyRootfs(r.t.Context(), openWithin(r.t, more, r.limits), mounts, r.target, r.limits)
	noMounts(r.t, r.target)
	r.untouched()
	return err
}

func (r *rootfs) untouched() {
	r.t.Helper()
	if got := names(r.t, r.secret); !slices.Equal(got, []string{"file", "sub", "sub/file"}) {
		r.t.Errorf("the node's files became %q", got)
	}
	if got := r.read(r.secret, "file"); got != "secret" {
		r.t.Errorf("the node's file became %q", got)
	}
	var st unix.Stat_t
	check(r.t, unix.Lstat(filepath.Join(r.secret, "file"), &st))
	if st.Nlink != 1 || st.Mode&0o7777 != 0o644 || st.Uid != 0 {
		r.t.Errorf("the node's file has %d names, mode %o, owner %d", st.Nlink, st.Mode&0o7777, st.Uid)
	}
	if left := names(r.t, r.target); len(left) > 0 {
		r.t.Errorf("written below the mount point: %q", left)
	}
}

func (r *rootfs) read(elem ...string) string {
	r.t.Helper()
	data, err := os.ReadFile(filepath.Join(elem...))
	check(r.t, err)
	return string(data)
}

func (r *rootfs) names() []string { return names(r.t, r.source) }

func TestApplyOrdinaryEntries(t *testing.T) {
	r := newRootfs(t, map[string]string{"etc/passwd": "old", "etc/kept": "kept", "was-a-dir/x": "", "was-a-file": "x",
		"dir-stays/x": "x"})
	mtime := time.Unix(1_700_000_000, 0)
	owned := func(e entry, mode int64) entry {
		e.Mode, e.Uid, e.Gid, e.ModTime = mode, 1000, 1001, mtime
		return e
	}
	marked := owned(file("data/file", "content"), 0o4751)
	marked.PAXRecords = map[string]string{"SCHILY.xattr.user.color": "blue"}
	check(t, r.apply(tarball(t,
		special(tar.TypeDir, "./", ""),
		owned(special(tar.TypeDir, "data/", ""), 0o1711), marked,
		owned(special(tar.TypeSymlink, "data/link", "/etc/passwd"), 0o777),
		owned(special(tar.TypeLink, "data/hard", "data/file"), 0o4751),
		owned(special(tar.TypeFifo, "data/fifo", ""), 0o600),
		owned(file("etc/passwd", "new"), 0o600),
		file("was-a-dir", "now a file"),
		special(tar.TypeDir, "was-a-file/", ""), file("was-a-file/y", ""),
		special(tar.TypeDir, "dir-stays/", ""), file("dir-stays/y", ""),
	), ""))
	want := []string{"data", "data/fifo", "data/file", "data/hard", "data/link", "dir-stays", "dir-stays/x", "dir-stays/y",
		"etc", "etc/kept", "etc/passwd", "was-a-dir", "was-a-file", "was-a-file/y"}
	if got := r.names(); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	for name, mode := range map[string]uint32{
		"data": unix.S_IFDIR | 0o1711, "data/file": unix.S_IFREG | 0o4751, "data/hard": unix.S_IFREG | 0o4751,
		"data/link": unix.S_IFLNK | 0o777, "data/fifo": unix.S_IFIFO | 0o600, "etc/passwd": unix.S_IFREG | 0o600,
	} {
		var st unix.Stat_t
		check(t, unix.Lstat(filepath.Join(r.source, name), &st))
		if st.Mode != mode || st.Uid != 1000 || st.Gid != 1001 || st.Mtim.Sec != mtime.Unix() {
			t.Errorf("%s: mode %o, owner %d:%d, time %d", name, st.Mode, st.Uid, st.Gid, st.Mtim.Sec)
		}
	}
	if got := r.read(r.source, "data/hard") + r.read(r.source, "etc/passwd") +
		r.read(r.source, "etc/kept"); got != "contentnewkept" {
		t.Errorf("contents %q", got)
	}
	if link, err := os.Readlink(filepath.Join(r.source, "data/link")); err != nil || link != "/etc/passwd" {
		t.Errorf("link %q, %v", link, err)
	}
	value := make([]byte, 16)
	n, err := unix.Lgetxattr(filepath.Join(r.source, "data/file"), "user.color", value)
	if err != nil || string(value[:n]) != "blue" {
		t.Errorf("extended attribute %q, %v", value[:max(n, 0)], err)
	}
}

func TestApplyWhiteouts(t *testing.T) {
	for name, compress := range map[string]func(*testing.T, string) string{"plain": nil, "gzip": gzipped,
		"zstd": zstandard} {
		t.Run(name, func(t *testing.T) {
			r := newRootfs(t, map[string]string{"a/gone": "", "a/kept": "", "tree/x/y": "", "opaque/old": "",
				"opaque/deep/old": ""})
			diff := tarball(t,
				file("a/.wh.gone", ""), file("a/.wh.never-was", ""), file(".wh.tree", ""),
				special(tar.TypeDir, "opaque/", ""), file("opaque/.wh..wh..opq", ""), file("opaque/new", ""),
			)
			if compress != nil {
				diff = compress(t, diff)
			}
			check(t, r.apply(diff, ""))
			if got, want := r.names(), []string{"a", "a/kept", "opaque", "opaque/new"}; !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestApplyDeletedFiles(t *testing.T) {
	r := newRootfs(t, map[string]string{"a/gone": "", "a/kept": "", "tree/x/y": "", "b": ""})
	check(t, os.Symlink("a", filepath.Join(r.source, "inside")))
	check(t, os.Symlink("a/kept", filepath.Join(r.source, "link")))
	check(t, r.apply("", `["/a/gone","/tree/","/never/was","/inside/never-was","/link"]`))
	if got, want := r.names(), []string{"a", "a/kept", "b", "inside"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	// First deleted, then applied: a path may have been deleted and made again.
	check(t, r.apply(tarball(t, file("b", "again")), `["/b"]`))
	if got := r.read(r.source, "b"); got != "again" {
		t.Errorf("got %q", got)
	}
}

func TestApplyNothingMountsNothing(t *testing.T) {
	for _, deleted := range []string{"", "[]", "null"} {
		r := newRootfs(t, nil)
		more := map[string]string{}
		if deleted != "" {
			more["deleted.files"] = deleted
		}
		// Mounting this would fail.
		mounts := []mount.Mount{{Type: "bind", Source: "/no/such/source", Options: []string{"rbind"}}}
		check(t, ApplyRootfs(t.Context(), open(t, more), mounts, r.target, r.limits))
		err := ApplyRootfs(t.Context(), open(t, map[string]string{"deleted.files": `["/a"]`}), mounts, r.target, r.limits)
		if err == nil || !strings.Contains(err.Error(), r.target) {
			t.Errorf("mounting what is not there: %v", err)
		}
		noMounts(t, r.target)
	}
}

// A path inside the root file system is resolved there, as the container did.
func TestApplyThroughLinksStaysInside(t *testing.T) {
	for name, link := range map[string]func(r *rootfs) string{
		"absolute": func(r *rootfs) string { return r.secret },
		"relative": func(*rootfs) string { return "../secret" },
		"deep": func(r *rootfs) string {
			return strings.Repeat("../", strings.Count(r.source, "/")+3) + strings.TrimPrefix(r.secret, "/")
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, entries := range map[string][]entry{
				"file":      {file("link/file", "evil")},
				"new file":  {file("link/new", "evil")},
				"directory": {special(tar.TypeDir, "link/sub/", "")},
				"symlink":   {special(tar.TypeSymlink, "link/file", "x")},
				"whiteout":  {file("link/.wh.file", ""), file("link/.wh.sub", "")},
				"opaque":    {special(tar.TypeDir, "link/x", ""), file("link/.wh..wh..opq", "")},
				"mode":      {file("x", ""), special(tar.TypeLink, "link/x", "x")},
			} {
				r := newRootfs(t, nil)
				check(t, os.Symlink(link(r), filepath.Join(r.source, "base-link")))
				// Both by a link of the base image and by one of the diff itself.
				check(t, r.apply(tarball(t, slices.Insert(slices.Clone(entries), 0, special(tar.TypeSymlink, "link", link(r)))...),
					""))
				for i := range entries {
					entries[i].Name = strings.Replace(entries[i].Name, "link/", "base-link/", 1)
				}
				check(t, r.apply(tarball(t, entries...), ""))
			}
		})
	}
}
