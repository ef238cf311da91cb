package checkpoint

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/errdefs"
)

// contents reads a directory back: files by name, directories with a slash.
func contents(t *testing.T, dir string) files {
	t.Helper()
	out := files{}
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		st := fi.Sys().(*syscall.Stat_t)
		if int(st.Uid) != os.Getuid() || int(st.Gid) != os.Getgid() {
			t.Errorf("%s: owner %d:%d", name, st.Uid, st.Gid)
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir():
			if fi.Mode() != fs.ModeDir|0o700 {
				t.Errorf("%s: mode %v", name, fi.Mode())
			}
			if rel != "." {
				out[rel+"/"] = ""
			}
		case d.Type().IsRegular():
			if fi.Mode() != 0o600 {
				t.Errorf("%s: mode %v", name, fi.Mode())
			}
			b, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			out[rel] = string(b)
		default:
			t.Errorf("%s: %v", name, d.Type())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// unpack unpacks into a new directory and checks that a failure leaves it empty.
func unpack(t *testing.T, archive string, l Limits) (string, error) {
	t.Helper()
	dst := t.TempDir()
	err := Unpack(t.Context(), archive, dst, l)
	if err != nil {
		left, rerr := os.ReadDir(dst)
		if rerr != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, rerr)
		}
	}
	return dst, err
}

func TestUnpack(t *testing.T) {
	for engine, f := range map[Engine]files{
		EngineContainerd: containerdFiles(), EngineCRIO: crioFiles(), EnginePodman: podmanFiles(),
	} {
		for _, c := range []compression.Compression{compression.Uncompressed, compression.Gzip, compression.Zstd} {
			t.Run(string(engine)+" "+c.Extension(), func(t *testing.T) {
				data := compressed(t, tarball(t, f.entries()...), c)
				dst, err := unpack(t, stored(t, data), DefaultLimits())
				if err != nil {
					t.Fatal(err)
				}
				want := maps.Clone(f)
				want["checkpoint/"] = ""
				if engine == EnginePodman {
					want["volumes/"] = "" // has no entry of its own
				}
				if got := contents(t, dst); !maps.Equal(got, want) {
					t.Errorf("got %v", slices.Sorted(maps.Keys(got)))
				}
				if got := open(t, dst).Metadata.Engine; got != engine {
					t.Errorf("engine %s", got)
				}
			})
		}
	}
}

// T19 to T21: what is refused, beside what looks like it and is honest.
func TestUnpackEntries(t *testing.T) {
	xattr := file("a", "x")
	xattr.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "x"}
	setuid := file("a", "x")
	setuid.Mode, setuid.Uid, setuid.Gid = 0o6777, 4711, 4711
	long := strings.Repeat("n", 200)
	deep := strings.Repeat("d/", maxDepth)

	for _, tc := range []struct {
		name string
		bad  []entry
		says string
		good []entry
		want files
	}{
		{
			"parent", []entry{file("../a", "x")}, `".."`,
			[]entry{file("..a", "x"), file("b..", "y")}, files{"..a": "x", "b..": "y"},
		},
		{"parent inside", []entry{dir("d"), file("d/../a", "x")}, `".."`, []entry{dir("d"), file("d/a", "x")},
			files{"d/": "", "d/a": "x"}},
		{"parent directory", []entry{dir("d/..")}, `".."`, []entry{dir("d/")}, files{"d/": ""}},
		{"parent after dot", []entry{file("./../a", "x")}, `".."`, []entry{file("./a", "x")}, files{"a": "x"}},
		{"absolute", []entry{file("/a", "x")}, "absolute", []entry{file("a", "x")}, files{"a": "x"}},
		{"absolute after dot", []entry{file(".//a", "x")}, "absolute", []entry{file("./a", "x")}, files{"a": "x"}},
		{
			"as GNU tar writes it, twice", []entry{dir("./"), file("./a", "x"), file("./a", "y")}, "twice",
			[]entry{dir("./"), dir("./checkpoint/"), file("./checkpoint/a", "x")}, files{"checkpoint/": "", "checkpoint/a": "x"},
		},
		{
			"same name, cleaned", []entry{file("a", "x"), file("./a", "y")}, "twice",
			[]entry{file("a", "x"), file("A", "y")}, files{"a": "x", "A": "y"},
		},
		{"same directory", []entry{dir("d"), dir("./d/")}, "twice", []entry{file("d/a", ""), dir("d")},
			files{"d/": "", "d/a": ""}},
		{"same root", []entry{dir("./"), dir(".")}, "twice", []entry{dir("./")}, files{}},
		{"file and directory", []entry{file("a", "x"), dir("a")}, "twice", []entry{file("a", "x"), dir("b")},
			files{"a": "x", "b/": ""}},
		{"file and implied directory", []entry{file("a", "x"), file("a/b", "y")}, "a file and a directory",
			[]entry{file("a/b", "y")}, files{"a/": "", "a/b": "y"}},
		{"file and implied directory above", []entry{file("a", "x"), file("a/b/c", "y")}, "a file and a directory",
			[]entry{file("a/b/c", "y")}, files{"a/": "", "a/b/": "", "a/b/c": "y"}},
		{"implied directory and file", []entry{file("a/b", "y"), file("a", "x")}, "a file and a directory",
			[]entry{file("a/b", "y"), dir("a")}, files{"a/": "", "a/b": "y"}},
		{"dot inside", []entry{file("d/./a", "x")}, "not clean", []entry{file("d/.a", "x")}, files{"d/": "", "d/.a": "x"}},
		{"two slashes", []entry{file("d//a", "x")}, "not clean", []entry{file("d/a", "x")}, files{"d/": "", "d/a": "x"}},
		{"two leading dots", []entry{file("././a", "x")}, "not clean", []entry{file("./a", "x")}, files{"a": "x"}},
		{"backslash", []entry{file(`d\a`, "x")}, "backslash", []entry{file("d/a", "x")}, files{"d/": "", "d/a": "x"}},
		{"newline", []entry{file("a\nb", "x")}, "control", []entry{file("a b", "x")}, files{"a b": "x"}},
		{"not UTF-8", []entry{{tar.Header{Typeflag: tar.TypeReg, Name: "a\xff", Format: tar.FormatGNU}, ""}}, "control",
			[]entry{file("aÿ", "x")}, files{"aÿ": "x"}},
		{"long name", []entry{file(strings.Repeat("n", 1025), "x")}, "1024", []entry{file(long, "x")}, files{long: "x"}},
		{"deep", []entry{file(deep+"d/a", "x")}, "nested", []entry{file(deep+"a", "x")}, nil},
		{"symbolic link", []entry{special("container.log", tar.TypeSymlink, "/etc/shadow")}, "symbolic link",
			[]entry{file("container.log", "x")}, files{"container.log": "x"}},
		{
			"write through a link", []entry{special("d", tar.TypeSymlink, "/tmp"), file("d/a", "x")}, "symbolic link",
			[]entry{dir("d"), file("d/a", "x")}, files{"d/": "", "d/a": "x"},
		},
		{"hard link", []entry{file("a", "x"), special("b", tar.TypeLink, "a")}, "hard link",
			[]entry{file("a", "x"), file("b", "x")}, files{"a": "x", "b": "x"}},
		{"hard link out", []entry{special("a", tar.TypeLink, "/etc/shadow")}, "hard link", []entry{file("a", "x")},
			files{"a": "x"}},
		{"Podman's parent", []entry{special("checkpoint/parent", tar.TypeSymlink, "../pre-checkpoint")},
			"incremental checkpoints are not supported", []entry{dir("pre-checkpoint")}, files{"pre-checkpoint/": ""}},
		{"character device", []entry{special("a", tar.TypeChar, "")}, "device", []entry{file("a", "")}, files{"a": ""}},
		{"block device", []entry{special("a", tar.TypeBlock, "")}, "device", []entry{file("a", "")}, files{"a": ""}},
		{"FIFO", []entry{special("config.dump", tar.TypeFifo, "")}, "FIFO", []entry{file("config.dump", "")},
			files{"config.dump": ""}},
		{"contiguous file", []entry{special("a", tar.TypeCont, "")}, "type '7'", []entry{file("a", "")}, files{"a": ""}},
		{"global header", []entry{{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"a": "b"}},
			""}}, "type 'g'", []entry{xattr}, files{"a": "x"}},
		{"setuid on a device", []entry{special("a", tar.TypeChar, ""), setuid}, "device", []entry{setuid}, files{"a": "x"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			// A file before and one after: the first must go, the second never come.
			bad := append([]entry{file("first", "1")}, tc.bad...)
			_, err := unpack(t, stored(t, tarball(t, append(bad, file("last", "2"))...)), DefaultLimits())
			wantError(t, err, errdefs.IsInvalidArgument, tc.says)

			dst, err := unpack(t, stored(t, tarball(t, tc.good...)), DefaultLimits())
			if err != nil {
				t.Fatal(err)
			}
			if got := contents(t, dst); tc.want != nil && !maps.Equal(got, tc.want) {
				t.Errorf("got %v", got)
			}
		})
	}
}

func TestUnpackDamaged(t *testing.T) {
	plain := tarball(t, containerdFiles().entries()...)
	zipped := compressed(t, plain, compression.Gzip)
	zstded := compressed(t, plain, compression.Zstd)
	flipped := func(b []byte, at int) []byte {
		b = bytes.Clone(b)
		b[at] ^= 0xff
		return b
	}
	// A checksum at the very end, behind the last byte that tar needs.
	badSum := bytes.Clone(zipped)
	binary.LittleEndian.PutUint32(badSum[len(badSum)-8:], 0)

	for name, data := range map[string][]byte{
		"text":              []byte(strings.Repeat("this is no tar\n", 100)),
		"short text":        []byte("x"),
		"cut in a header":   plain[:700],
		"cut in a file":     plain[:len(plain)-5000],
		"header flipped":    flipped(plain, 100),
		"gzip cut":          zipped[:len(zipped)/2],
		"gzip without end":  zipped[:len(zipped)-4],
		"gzip header only":  zipped[:10],
		"gzip magic only":   zipped[:3],
		"gzip flipped":      flipped(zipped, len(zipped)/2),
		"gzip bad checksum": badSum,
		"zstd cut":          zstded[:len(zstded)/2],
		"zstd flipped":      flipped(zstded, len(zstded)/2),
		"zstd magic only":   zstded[:4],
		"gzip in gzip":      compressed(t, zipped, compression.Gzip),
		"xz":                append([]byte("\xfd7zXZ\x00"), make([]byte, 1024)...),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := unpack(t, stored(t, data), DefaultLimits())
			wantError(t, err, errdefs.IsInvalidArgument, "unpack checkpoint archive")
		})
	}
	for name, data := range map[string][]byte{"plain": plain, "gzip": zipped, "zstd": zstded} {
		if _, err := unpack(t, stored(t, data), DefaultLimits()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// T41: what an archive may be on disk.
func TestUnpackArchive(t *testing.T) {
	good := stored(t, tarball(t, containerdFiles().entries()...))
	if _, err := unpack(t, good, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	link, fifo := filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := os.Symlink(good, link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, is := range map[string]func(error) bool{
		"checkpoint.tar":            errdefs.IsInvalidArgument,
		"":                          errdefs.IsInvalidArgument,
		link:                        errdefs.IsInvalidArgument,
		fifo:                        errdefs.IsInvalidArgument,
		dir:                         errdefs.IsInvalidArgument,
		"/dev/zero":                 errdefs.IsInvalidArgument,
		filepath.Join(dir, "none"):  errdefs.IsNotFound,
		filepath.Join(good, "none"): func(err error) bool { return errors.Is(err, syscall.ENOTDIR) },
	} {
		_, err := unpack(t, name, DefaultLimits())
		wantError(t, err, is, name)
	}
}

func TestUnpackDestination(t *testing.T) {
	good := stored(t, tarball(t, containerdFiles().entries()...))
	full := files{"mine": "1"}.tree(t)
	wantError(t, Unpack(t.Context(), good, full, DefaultLimits()), errdefs.IsFailedPrecondition, "not empty")
	if got, err := os.ReadFile(filepath.Join(full, "mine")); err != nil || string(got) != "1" {
		t.Errorf("what was there: %q, %v", got, err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	for _, dst := range []string{link, good} {
		wantError(t, Unpack(t.Context(), good, dst, DefaultLimits()), errdefs.IsInvalidArgument, "not a directory")
	}
	if err := Unpack(t.Context(), good, filepath.Join(full, "none"), DefaultLimits()); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	// A directory that others can enter is closed to them.
	dst := t.TempDir()
	if err := os.Chmod(dst, fs.ModeSetgid|0o777); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(t.Context(), good, dst, DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	contents(t, dst)
}

// cancelled is a context that ends after some looks at it.
type cancelled struct {
	context.Context
	looks int
}

func (c *cancelled) Err() error {
	if c.looks--; c.looks < 0 {
		return context.Canceled
	}
	return nil
}

func TestUnpackCancel(t *testing.T) {
	// One large file: the end comes inside it.
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "checkpoint/pages-1.img", Size: 32 << 20,
		Mode: 0o600}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(tw, zeros{}, 32<<20); err != nil {
		t.Fatal(err)
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	archive := stored(t, buf.Bytes())
	for archive, last := range map[string]int{archive: 8, stored(t, compressed(t, buf.Bytes(), compression.Zstd)): 100} {
		for _, looks := range []int{0, 1, 4, last} {
			dst := t.TempDir()
			err := Unpack(&cancelled{t.Context(), looks}, archive, dst, DefaultLimits())
			if !errors.Is(err, context.Canceled) {
				t.Errorf("after %d looks: %v", looks, err)
			}
			if left, err := os.ReadDir(dst); err != nil || len(left) > 0 {
				t.Errorf("after %d looks: left %v, %v", looks, left, err)
			}
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	if err := Unpack(ctx, archive, t.TempDir(), DefaultLimits()); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}
