package restore

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func compressed(t *testing.T, data string, c compression.Compression) string {
	t.Helper()
	var buf bytes.Buffer
	w, err := compression.CompressStream(&buf, c)
	check(t, err)
	_, err = w.Write([]byte(data))
	check(t, err)
	check(t, w.Close())
	return buf.String()
}

func gzipped(t *testing.T, data string) string   { return compressed(t, data, compression.Gzip) }
func zstandard(t *testing.T, data string) string { return compressed(t, data, compression.Zstd) }

func TestRefusedEntries(t *testing.T) {
	device := func(typeflag byte) entry {
		e := special(typeflag, "dev/x", "")
		e.Devmajor, e.Devminor = 1, 3
		return e
	}
	xattr := func(key string) entry {
		e := file("x", "")
		e.PAXRecords = map[string]string{"SCHILY.xattr." + key: "y"}
		return e
	}
	for name, c := range map[string]struct {
		entry entry
		says  string
	}{
		"character device": {device(tar.TypeChar), "device nodes come from the pod"},
		"block device":     {device(tar.TypeBlock), "device nodes come from the pod"},
		"contiguous file":  {special(tar.TypeCont, "x", ""), "not allowed"},
		"overlay opaque":   {xattr("trusted.overlay.opaque"), "trusted.overlay.opaque belongs to the node"},
		"trusted":          {xattr("trusted.x"), "trusted.x belongs to the node"},
		"dot dot":          {file("../x", ""), "leaves the root file system"},
		"long name":        {file("../"+strings.Repeat("x", 1<<16), ""), "leaves the root file system"},
		"dot dot within":   {file("a/../../x", ""), "leaves the root file system"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRootfs(t, map[string]string{"kept": ""})
			err := r.apply(tarball(t, c.entry, file("after", "")), "")
			wantError(t, err, errdefs.IsInvalidArgument, "rootfs-diff.tar", c.says)
			if err != nil && len(err.Error()) > 1024 {
				t.Errorf("error of %d bytes", len(err.Error()))
			}
			if got := r.names(); !slices.Equal(got, []string{"kept"}) {
				t.Errorf("applied %q", got)
			}
		})
	}
}

func TestHardLinkOutOfTheRoot(t *testing.T) {
	for _, link := range []string{"../secret/file", "../../../secret/file", "link/file", "SECRET/file"} {
		r := newRootfs(t, nil)
		check(t, os.Symlink(r.secret, filepath.Join(r.source, "link")))
		link = strings.Replace(link, "SECRET", r.secret, 1)
		wantError(t, r.apply(tarball(t, special(tar.TypeLink, "x", link)), ""), errdefs.IsInvalidArgument, `"x"`, link,
			"not in the root file system")
	}
}

// What the kernel refuses because of the entry alone is no fault of the node.
func TestContradictions(t *testing.T) {
	long := strings.Repeat("x", 300)
	for name, c := range map[string]struct {
		entries []entry
		deleted string
		says    string
	}{
		"below a file":               {[]entry{file("a", ""), file("a/b", "")}, "", `"a/b"`},
		"below a file of the image":  {[]entry{file("kept/b", "")}, "", `"kept/b"`},
		"long name":                  {[]entry{file(long, "")}, "", `"xxx`},
		"long name that was deleted": {nil, `["/` + long + `"]`, `"/xxx`},
		"deleted below a file":       {nil, `["/kept/x"]`, `"/kept/x"`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRootfs(t, map[string]string{"kept": ""})
			err := r.apply(tarball(t, append(c.entries, file("after", ""))...), c.deleted)
			wantError(t, err, errdefs.IsInvalidArgument, c.says)
			if slices.Contains(r.names(), "after") {
				t.Error("what comes after it was applied")
			}
		})
	}
	r := newRootfs(t, map[string]string{"kept": ""})
	check(t, r.apply(tarball(t, special(tar.TypeDir, "a", ""), file("a/b", ""), file("kept", "new"),
		file(long[:255], "")), `["/`+long[:255]+`","/absent/x"]`))
}

func TestDeletedFilesThroughLinks(t *testing.T) {
	for _, p := range []string{"/link/file", "/link/sub", "/relative/file", "/../secret/file", "/a/../../secret/file"} {
		r := newRootfs(t, map[string]string{"a/x": ""})
		check(t, os.Symlink(r.secret, filepath.Join(r.source, "link")))
		check(t, os.Symlink("../secret", filepath.Join(r.source, "relative")))
		wantError(t, r.apply(tarball(t, file("after", "")), `["`+p+`"]`), errdefs.IsInvalidArgument, "deleted.files", p)
		if got := r.names(); !slices.Equal(got, []string{"a", "a/x", "link", "relative"}) {
			t.Errorf("%s: left %q", p, got)
		}
	}
}

func TestTooManyEntries(t *testing.T) {
	var entries []entry
	for i := range 21 {
		entries = append(entries, file(string(rune('a'+i)), ""))
	}
	for n, ok := range map[int]bool{20: true, 21: false} {
		r := newRootfs(t, nil)
		r.limits.Entries = 20
		err := r.apply(tarball(t, entries[:n]...), "")
		if ok {
			check(t, err)
			continue
		}
		wantError(t, err, errdefs.IsResourceExhausted, "more than 20 entries", "max_entries")
	}
}

// TestTooDeep: containerd looks for all directories above an entry, which for few entries that are deep is much more
// work than for many that are not.
func TestTooDeep(t *testing.T) {
	for depth, ok := range map[int]bool{100: true, 104: false} {
		r := newRootfs(t, nil)
		r.limits.Entries = 20
		err := r.apply(tarball(t, file(strings.Repeat("a/", depth-1)+"x", "")), "")
		if ok {
			check(t, err)
			continue
		}
		wantError(t, err, errdefs.IsResourceExhausted, "too deep", "max_entries")
	}
}

func TestTooLarge(t *testing.T) {
	diff := tarball(t, file("big", strings.Repeat("x", 1<<20)))
	for name, stored := range map[string]string{"plain": diff, "gzip": gzipped(t, diff), "zstd": zstandard(t, diff)} {
		t.Run(name, func(t *testing.T) {
			for _, limit := range []int64{int64(len(diff)), math.MaxInt64} {
				r := newRootfs(t, nil)
				r.limits.DiffBytes = limit
				check(t, r.apply(stored, ""))
				if got := r.read(r.source, "big"); len(got) != 1<<20 {
					t.Errorf("%d bytes", len(got))
				}
			}
			r := newRootfs(t, nil)
			// An entry may need some more, its content not.
			r.limits.DiffBytes, r.limits.Entries = 1<<19, 20
			wantError(t, r.apply(stored, ""), errdefs.IsResourceExhausted, "max_diff_size", "524288")
		})
	}
}

func TestDamagedDiff(t *testing.T) {
	// Random enough not to shrink to nothing.
	var noise strings.Builder
	for i := range 64 << 10 {
		noise.WriteByte(byte(i * i >> 7 * 31))
	}
	diff := tarball(t, file("a", noise.String()))
	packed := gzipped(t, diff)
	for name, stored := range map[string]string{
		"no tar":           strings.Repeat("garbage ", 1024),
		"cut":              diff[:len(diff)/2],
		"cut gzip":         packed[:len(packed)/2],
		"gzip header only": packed[:4],
		"changed gzip":     packed[:len(packed)/2] + "xxxx" + packed[len(packed)/2+4:],
		"cut zstd":         zstandard(t, diff)[:40],
		"gzip of no tar":   gzipped(t, strings.Repeat("garbage ", 1024)),
	} {
		t.Run(name, func(t *testing.T) {
			wantError(t, newRootfs(t, nil).apply(stored, ""), errdefs.IsInvalidArgument, "rootfs-diff.tar")
		})
	}
}

// A frame of zstd says how much memory it takes to read it, here 2 GiB.
func TestGreedyZstd(t *testing.T) {
	frame := string([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 21 << 3, 1, 0, 0})
	wantError(t, newRootfs(t, nil).apply(frame, ""), errdefs.IsResourceExhausted, "rootfs-diff.tar", "window")
}

func TestApplyEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := newRootfs(t, nil)
	mounts := []mount.Mount{{Type: "bind", Source: r.source, Options: []string{"rbind", "rw"}}}
	c := open(t, map[string]string{"rootfs-diff.tar": tarball(t, file("a", ""))})
	if err := ApplyRootfs(ctx, c, mounts, r.target, r.limits); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	noMounts(t, r.target)
	if got := r.names(); len(got) > 0 {
		t.Errorf("applied %q", got)
	}
}

func TestMountThatFailsHalfWay(t *testing.T) {
	r := newRootfs(t, nil)
	mounts := []mount.Mount{
		{Type: "bind", Source: r.source, Options: []string{"rbind", "rw"}},
		{Type: "bind", Source: "/no/such/source", Options: []string{"rbind"}},
	}
	err := ApplyRootfs(t.Context(), open(t, map[string]string{"deleted.files": `["/a"]`}), mounts, r.target, r.limits)
	if !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), r.target) {
		t.Errorf("%v", err)
	}
	noMounts(t, r.target)
	r.untouched()
}

// A file system that is still in use is detached, and that is an error: what
// was written need not be in the snapshot yet.
func TestBusyRootfs(t *testing.T) {
	r := newRootfs(t, map[string]string{"in-use/x": ""})
	mounts := []mount.Mount{
		{Type: "bind", Source: r.source, Options: []string{"rbind", "rw"}},
		{Type: "bind", Source: r.secret, Target: "in-use", Options: []string{"rbind"}},
	}
	err := ApplyRootfs(t.Context(), open(t, map[string]string{"deleted.files": `["/a"]`}), mounts, r.target, r.limits)
	if !errors.Is(err, unix.EBUSY) {
		t.Errorf("%v", err)
	}
	noMounts(t, r.target)
	r.untouched()
}
