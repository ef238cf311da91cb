package integration

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// The files of a checkpoint that somebody reads.
var checkpointFiles = []string{
	"config.dump", "spec.dump", "status.dump", "container.log", "rootfs-diff.tar", "checkpoint", "checkpoint/pages-1.img",
}

// irregularities are what a file of a checkpoint may be instead of a file, and the
// words for it. No honest engine writes any.
var irregularities = []struct {
	kind byte
	word string
}{
	{tar.TypeSymlink, "symbolic link"}, {tar.TypeLink, "hard link"}, {tar.TypeFifo, "FIFO"}, {tar.TypeChar, "device"},
	{tar.TypeBlock, "device"},
}

// TestAttackArchiveEntries puts links, FIFOs and devices in the place of each file of a
// checkpoint archive.
func TestAttackArchiveEntries(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	for _, name := range checkpointFiles {
		for _, irregular := range irregularities {
			t.Run(name+" is a "+irregular.word, func(t *testing.T) {
				archive := doctoredArchive(t, a.n, withEntries(a.honest, specialEntry(irregular.kind, name, a.secret)))
				a.refuses(t, archive, codes.InvalidArgument, `"`+name+`"`, irregular.word)
			})
		}
	}
	// An archive itself is a regular file too, or else.
	for name, create := range map[string]func(string) error{
		"symbolic link": func(p string) error { return os.Symlink(a.archive, p) },
		"FIFO":          func(p string) error { return unix.Mkfifo(p, 0o600) },
		"directory":     func(p string) error { return os.Mkdir(p, 0o700) },
	} {
		t.Run("archive is a "+name, func(t *testing.T) {
			file := filepath.Join(a.n.Dir(), unique("archive"))
			if err := create(file); err != nil {
				t.Fatal(err)
			}
			a.refuses(t, file, codes.InvalidArgument, file, "not a regular file")
		})
	}
	t.Run("archive is absent", func(t *testing.T) {
		a.refuses(t, filepath.Join(a.n.Dir(), "absent.tar"), codes.NotFound, "absent.tar")
	})
	t.Run("archive by another name", func(t *testing.T) {
		a.refuses(t, a.n.Dir()+"/../"+filepath.Base(a.n.Dir())+"/"+filepath.Base(a.archive), codes.InvalidArgument, "clean")
	})
	a.goesOn(t)
}

// TestAttackArchiveNames gives entries names that mean something outside the archive, or
// two things.
func TestAttackArchiveNames(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	outside := filepath.Join(a.host, "evil")
	for _, tc := range []struct{ name, word string }{
		{"../evil", `".."`},
		{"checkpoint/../../evil", `".."`},
		{"checkpoint/..", `".."`},
		{outside, "absolute"},
		{`checkpoint\..\evil`, "backslash"},
		{"checkpoint//evil", "clean"},
		{"checkpoint/./evil", "clean"},
		{"evil\n", "control"},
		{"config.dump", "twice"},
		{"./config.dump", "twice"},
		{"config.dump/evil", "same name"},
		{strings.Repeat("a/", 20) + "evil", "deep"},
		{strings.Repeat("a", 2000), "name of 2000 bytes"},
	} {
		t.Run(strings.ReplaceAll(clipped(tc.name), "/", "_"), func(t *testing.T) {
			archive := doctoredArchive(t, a.n, append(slices.Clone(a.honest), regularEntry(tc.name, "evil")))
			a.refuses(t, archive, codes.InvalidArgument, tc.word)
		})
	}
	a.goesOn(t)
}

func clipped(s string) string { return s[:min(len(s), 30)] }

// TestAttackArchiveImages gives the CRIU images that are read before anything runs.
// Those that only CRIU reads are TestFailureCRIU's.
func TestAttackArchiveImages(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	for _, name := range []string{"inventory.img", "pstree.img", "ids-1.img"} {
		honest := contentOf(t, a.honest, "checkpoint/"+name)
		for what, content := range map[string]string{
			"empty":       "",
			"magic only":  honest[:8],
			"cut off":     honest[:len(honest)-3],
			"no magic":    "not CRIU" + honest[8:],
			"length":      honest[:8] + "\xff\xff\xff\x7f" + honest[12:],
			"other image": contentOf(t, a.honest, "checkpoint/seccomp.img"),
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				archive := doctoredArchive(t, a.n, withEntries(a.honest, regularEntry("checkpoint/"+name, content)))
				a.refuses(t, archive, codes.InvalidArgument, name)
			})
		}
		t.Run(name+" missing", func(t *testing.T) {
			a.refuses(t, doctoredArchive(t, a.n, withoutEntry(a.honest, "checkpoint/"+name)), codes.InvalidArgument, name)
		})
	}
	a.goesOn(t)
}

// TestAttackArchiveSize gives archives and the files in them more than the node allows.
func TestAttackArchiveSize(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	t.Run("entries", func(t *testing.T) {
		all := slices.Clone(a.honest)
		for i := range 2000 {
			all = append(all, regularEntry(fmt.Sprintf("checkpoint/%d.img", i), ""))
		}
		a.refuses(t, doctoredArchive(t, a.n, all), codes.ResourceExhausted, "2000 entries", "max_entries")
	})
	for _, name := range []string{"config.dump", "spec.dump", "container.log", "rootfs-diff.tar"} {
		t.Run(name, func(t *testing.T) {
			big := doctoredArchive(t, a.n, withEntries(a.honest, regularEntry(name, strings.Repeat(" ", 5<<20))))
			a.refuses(t, big, codes.ResourceExhausted, name, "max_")
		})
	}
	for _, format := range []string{"gnu", "pax"} {
		for _, name := range []string{"config.dump", "container.log", "checkpoint/pages-1.img"} {
			t.Run(name+" sparse in "+format, func(t *testing.T) {
				a.refuses(t, sparseArchive(t, a.n, a.honest, name, 1<<40, format), codes.ResourceExhausted, "max_archive_size")
			})
		}
	}
	t.Run("gzip bomb", func(t *testing.T) {
		bomb := withEntries(a.honest, regularEntry("checkpoint/bomb.img", strings.Repeat("\x00", 64<<20)))
		a.refuses(t, gzippedArchive(t, a.n, packed(t, bomb)), codes.ResourceExhausted, "max_archive_size")
	})
	t.Run("gzip bomb of many files", func(t *testing.T) {
		bomb := slices.Clone(a.honest)
		for i := range 64 {
			bomb = append(bomb, regularEntry(fmt.Sprintf("checkpoint/bomb-%d.img", i), strings.Repeat("\x00", 1<<20)))
		}
		a.refuses(t, gzippedArchive(t, a.n, packed(t, bomb)), codes.ResourceExhausted, "max_archive_size")
	})
	t.Run("gzip bomb behind the end of the tar", func(t *testing.T) {
		bomb := append(packed(t, a.honest), make([]byte, 64<<20)...)
		a.refuses(t, gzippedArchive(t, a.n, bomb), codes.ResourceExhausted, "max_archive_size")
	})
	t.Run("truncated", func(t *testing.T) {
		whole := packed(t, a.honest)
		name := filepath.Join(a.n.Dir(), unique("truncated")+".tar")
		writeHostFile(t, name, string(whole[:len(whole)/2]))
		a.refuses(t, name, codes.InvalidArgument, "ends too early")
	})
	t.Run("no tar", func(t *testing.T) {
		a.refuses(t, a.secret, codes.InvalidArgument, a.secret)
	})
	a.goesOn(t)
}

// gzippedArchive writes a compressed archive into the node's folder.
func gzippedArchive(t testing.TB, n *harness.Node, content []byte) string {
	t.Helper()
	name := filepath.Join(n.Dir(), unique("doctored")+".tar.gz")
	writeHostFile(t, name, string(gzipBytes(t, content)))
	t.Cleanup(func() { os.Remove(name) })
	return name
}

func gzipBytes(t testing.TB, content []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
	if err == nil {
		_, err = w.Write(content)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// sparseArchive writes an archive of these entries in which a file has another size, all of it a hole. Go
// writes no sparse archives, GNU tar does.
func sparseArchive(t testing.TB, n *harness.Node, all []tarEntry, name string, size int64, format string) string {
	t.Helper()
	tree := filepath.Join(n.Dir(), unique("sparse"))
	for _, e := range all {
		if e.Typeflag == tar.TypeReg {
			writeHostFile(t, filepath.Join(tree, e.Name), string(e.content))
		}
	}
	defer os.RemoveAll(tree)
	if err := os.Truncate(filepath.Join(tree, name), size); err != nil {
		t.Fatal(err)
	}
	archive := tree + ".tar"
	if out, err := exec.Command("tar", "--sparse", "--format="+format, "-C", tree, "-cf", archive,
		".").CombinedOutput(); err != nil {
		t.Fatalf("tar: %v: %s", err, out)
	}
	return archive
}
