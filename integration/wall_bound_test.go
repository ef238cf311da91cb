package integration

import (
	"archive/tar"
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// hostileArchive is the checkpoint after one of the changes that make its verification long.
func hostileArchive(t testing.TB, n *harness.Node, archive string,
	change func(map[string][]byte, string) error) string {
	t.Helper()
	images, root := map[string][]byte{}, t.TempDir()
	var all []tarEntry
	for _, e := range entriesOf(t, archive) {
		if name, ok := strings.CutPrefix(path.Clean(e.Name), imagesDir); ok && e.Typeflag == tar.TypeReg {
			images[name] = e.content
		} else {
			all = append(all, e)
		}
	}
	if err := change(images, root); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(images)) {
		all = append(all, regularEntry(imagesDir+name, string(images[name])))
	}
	if len(fileNames(t, root)) > 0 {
		diff, err := exec.Command("tar", "-C", root, "-czf", "-", ".").Output()
		if err != nil {
			t.Fatalf("tar: %v", err)
		}
		all = withEntries(all, regularEntry("rootfs-diff.tar", string(diff)))
	}
	return doctoredArchive(t, n, all)
}

// holeArchive is an archive of some hundred bytes, which has one file of as many GiB as are allowed, all of it a
// hole.
func holeArchive(t testing.TB, n *harness.Node) string {
	t.Helper()
	const name = "checkpoint/pages-1.img"
	sparse := sparseArchive(t, n, []tarEntry{regularEntry(name, "")}, name, checkpoint.DefaultLimits().ArchiveBytes, "pax")
	defer os.Remove(sparse)
	content, err := os.ReadFile(sparse)
	if err != nil {
		t.Fatal(err)
	}
	return gzippedArchive(t, n, content)
}

// inImage is a checkpoint image with these files. Who pulls it may be told already what is wrong with it.
func inImage(t *testing.T, n *harness.Node, files ...tarEntry) string {
	t.Helper()
	ref := layerImage(t, n, files)
	_, _ = n.In(t).TryPull(ref, "", "")
	t.Cleanup(func() { n.RemoveImage(ref) })
	return ref
}

// asOneFile is an archive as a file of an image.
func asOneFile(t *testing.T, archive string) tarEntry {
	t.Helper()
	content, err := os.ReadFile(archive)
	if err != nil {
		t.Fatal(err)
	}
	return regularEntry(filepath.Base(archive), string(content))
}

// TestWallBound: images of some kilobytes to some megabytes that would write gigabytes, take a gigabyte of memory, or
// minutes of a processor. All are answered, a pod of another namespace restores meanwhile, and what looks like them
// and is honest is restored.
func TestWallBound(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	k := w.restrictedCheckpoint(t, harness.Busybox, harness.Shell(counting))
	hostile := func(part int, name string) func(t *testing.T) string {
		return func(t *testing.T) string {
			return inImage(t, w.n, entriesOf(t, hostileArchive(t, w.n, k.archive, criutest.Hostile(part)[name]))...)
		}
	}
	for name, c := range map[string]struct {
		attack, twin func(t *testing.T) string
		code         codes.Code
		word         string
	}{
		"hole": {
			attack: func(t *testing.T) string { return inImage(t, w.n, asOneFile(t, holeArchive(t, w.n))) },
			twin:   func(t *testing.T) string { return inImage(t, w.n, asOneFile(t, withHoles(t, w.n, k.archive))) },
			code:   codes.InvalidArgument, word: "config.dump",
		},
		"files": {attack: hostile(1, "small files"), twin: hostile(100_000, "small files"), code: codes.ResourceExhausted,
			word: "files.img"},
		"programs": {
			attack: hostile(1, "short programs"),
			twin:   func(t *testing.T) string { return inImage(t, w.n, entriesOf(t, withShortProgram(t, k.archive))...) },
			code:   codes.PermissionDenied, word: "too many ways",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.answersAll(t, k, c.attack(t), func(t *testing.T, err error) { requireRefused(t, err, c.code, c.word) })
		})
		t.Run("twin "+name, func(t *testing.T) {
			requireContinues(t, w.n.Pod(t).Run("twin", c.twin(t), restricted(appUser)...), k.counted)
		})
	}
}

// withHoles is the checkpoint of a process that has written zeros to a file, which are a hole in the archive.
func withHoles(t *testing.T, n *harness.Node, archive string) string {
	t.Helper()
	diff := packed(t, []tarEntry{regularEntry("zeros", string(make([]byte, 1<<20)))})
	archive = doctoredArchive(t, n, withEntries(entriesOf(t, archive), regularEntry("rootfs-diff.tar", string(diff))))
	full, tree, out := t.TempDir(), t.TempDir(), filepath.Join(n.Dir(), unique("holes")+".tar")
	t.Cleanup(func() { os.Remove(out) })
	for _, args := range [][]string{
		{"tar", "-C", full, "-xf", archive}, {"cp", "-r", "--sparse=always", full + "/.", tree},
		{"tar", "--sparse", "--format=pax", "-C", tree, "-cf", out, "."},
	} {
		if text, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", args[0], err, text)
		}
	}
	content, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(content, []byte("GNU.sparse.realsize")) {
		t.Fatal("no file has a hole")
	}
	return out
}

// withShortProgram is the checkpoint of a process that has installed a short program itself, with eight million ways
// through it.
func withShortProgram(t *testing.T, archive string) string {
	t.Helper()
	return editImages(t, archive, func(e *imageEditor) {
		e.Seccomp(func(all []*seccomp.SeccompFilter) []*seccomp.SeccompFilter {
			own := &seccomp.SeccompFilter{Filter: criutest.ShortProgram(uint16(unix.ENOSYS)), Flags: all[0].Flags,
				Prev: proto.Uint32(0)}
			return []*seccomp.SeccompFilter{all[0], own}
		})
		e.EachThread(func(_ uint32, core *criu_core.CoreEntry) { core.ThreadCore.SeccompFilter = proto.Uint32(1) })
	})
}
