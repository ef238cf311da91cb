package integration

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/image"
)

// allowArchives is the configuration in which an archive's path is an image name.
const allowArchives = `allow_archives = true`

var uniqueNumber atomic.Int64

// unique returns a name that nothing else in this test process has.
func unique(prefix string) string {
	return prefix + "-" + strconv.FormatInt(uniqueNumber.Add(1), 10)
}

// checkpointOf checkpoints a container through CRI and returns the archive, a plain
// tar in the node's folder. The container runs on.
func checkpointOf(t testing.TB, c *harness.Container) string {
	t.Helper()
	return c.Checkpoint(filepath.Join(c.Pod.Node().Dir(), unique("checkpoint")+".tar"))
}

// countingCheckpoint checkpoints a Counting container, in a pod of its own that is
// removed afterwards. It returns the archive and the number up to which the
// process had counted at least. opts come after Counting.
func countingCheckpoint(t testing.TB, n *harness.Node, opts ...harness.ContainerOpt) (archive string, counted int) {
	t.Helper()
	pod := n.Pod(t)
	c := pod.Run("counter", n.Image(harness.Busybox), append([]harness.ContainerOpt{harness.Counting()}, opts...)...)
	counted = c.WaitCount(5)
	archive = checkpointOf(t, c)
	pod.Remove()
	return archive, counted
}

// imageOf makes a checkpoint image of an archive, pushes it to the node's registry and
// pulls it through CRI, as the kubelet does. It returns the image's name with tag.
func imageOf(t testing.TB, n *harness.Node, archive string) string {
	t.Helper()
	name, _ := pushedImageOf(t, n, archive)
	n.In(t).Pull(name)
	return name
}

// pushedImageOf is imageOf without the pull: the image is only in the registry. It
// returns the name with tag and the one with digest.
func pushedImageOf(t testing.TB, n *harness.Node, archive string) (tag, digest string) {
	t.Helper()
	repository := unique("checkpoint") + ":1"
	layout := layoutOf(t, n, archive, n.Image(repository))
	defer os.RemoveAll(layout)
	digest = n.Registry().PushLayout(repository, layout)
	return n.Image(repository), digest
}

// layoutOf makes a checkpoint image of an archive as an OCI image layout in the node's folder.
func layoutOf(t testing.TB, n *harness.Node, archive, name string) string {
	t.Helper()
	layout := filepath.Join(n.Dir(), unique("layout"))
	if _, err := image.BuildLayout(t.Context(), layout, name, archive, image.BuildOptions{}); err != nil {
		t.Fatalf("checkpoint image of %s: %v", archive, err)
	}
	return layout
}

// publishedImageOf makes a checkpoint image of an archive straight in the node's
// containerd, unpacked for the snapshotter ("" for the default one), and returns its name.
func publishedImageOf(t testing.TB, n *harness.Node, archive, snapshotter string) string {
	t.Helper()
	n = n.In(t)
	name := "checkpoint.example/" + unique("checkpoint") + ":1"
	if _, err := image.Publish(n.Context(), n.Client(), snapshotter, name, archive,
		image.BuildOptions{TempDir: n.Dir()}); err != nil {
		t.Fatalf("checkpoint image of %s: %v", archive, err)
	}
	return name
}

// compressed writes the archive again, compressed with gzip or zstd.
func compressed(t testing.TB, archive string, with image.Compression) string {
	t.Helper()
	out := strings.TrimSuffix(archive, ".tar") + unique("-"+string(with)) + ".tar"
	rewrite(t, archive, out, func(dst io.Writer, src io.Reader) error {
		var w io.WriteCloser
		var err error
		switch with {
		case image.Gzip:
			w, err = gzip.NewWriterLevel(dst, gzip.BestSpeed)
		case image.Zstd:
			w, err = zstd.NewWriter(dst)
		default:
			err = fmt.Errorf("compression %q", with)
		}
		if err != nil {
			return err
		}
		_, err = io.Copy(w, src)
		return errors.Join(err, w.Close())
	})
	return out
}

// edit is what edited does with one file of an archive: it returns the new content,
// and false for a file that is to be left out.
type edit func(content []byte) ([]byte, bool)

// edited writes the archive again with some files changed. A file that is named
// and not in the archive fails the test.
func edited(t testing.TB, archive string, edits map[string]edit) string {
	t.Helper()
	out := strings.TrimSuffix(archive, ".tar") + unique("-edited") + ".tar"
	found := map[string]bool{}
	rewrite(t, archive, out, func(dst io.Writer, src io.Reader) error {
		w := tar.NewWriter(dst)
		for r := tar.NewReader(src); ; {
			header, err := r.Next()
			if errors.Is(err, io.EOF) {
				return w.Close()
			}
			if err != nil {
				return err
			}
			content := io.Reader(r)
			name := path.Clean(header.Name)
			if change, ok := edits[name]; ok {
				found[name] = true
				data, err := io.ReadAll(r)
				if err != nil {
					return err
				}
				data, keep := change(data)
				if !keep {
					continue
				}
				header.Size, content = int64(len(data)), strings.NewReader(string(data))
			}
			if err := w.WriteHeader(header); err != nil {
				return err
			}
			if _, err := io.Copy(w, content); err != nil {
				return err
			}
		}
	})
	for name := range edits {
		if !found[name] {
			t.Fatalf("%s has no %s to edit", archive, name)
		}
	}
	return out
}

// editedSpec writes the archive again with another OCI spec of the checkpointed container.
func editedSpec(t testing.TB, archive string, change func(*specs.Spec)) string {
	t.Helper()
	return edited(t, archive, map[string]edit{"spec.dump": func(content []byte) ([]byte, bool) {
		var spec specs.Spec
		if err := json.Unmarshal(content, &spec); err != nil {
			t.Fatalf("%s: spec.dump: %v", archive, err)
		}
		change(&spec)
		content, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		return content, true
	}})
}

func rewrite(t testing.TB, from, to string, write func(io.Writer, io.Reader) error) {
	t.Helper()
	src, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(write(dst, src), dst.Close()); err != nil {
		t.Fatalf("rewrite %s: %v", from, err)
	}
}

// tarFile returns one file of a plain archive.
func tarFile(t testing.TB, archive, name string) []byte {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if err != nil {
			t.Fatalf("%s in %s: %v", name, archive, err)
		}
		if path.Clean(header.Name) == name {
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatalf("%s in %s: %v", name, archive, err)
			}
			return content
		}
	}
}

// numbers returns the numbers of the lines "<prefix> N ...".
func numbers(lines []string, prefix string) []int {
	var found []int
	for _, line := range lines {
		text, ok := strings.CutPrefix(line, prefix+" ")
		if !ok {
			continue
		}
		text, _, _ = strings.Cut(text, " ")
		if number, err := strconv.Atoi(strings.TrimSpace(text)); err == nil {
			found = append(found, number)
		}
	}
	return found
}

// requireContinues waits until a restored Counting container has counted further, and
// fails the test unless its log tells one story from 1 on. counted is how far the
// process had counted before the checkpoint, at least.
//
// containerd copies the log into the checkpoint after it has let the process run
// on, so the copy may end with lines that the restored process writes again. Then the
// log falls back once, to a number above counted. No number is ever left out.
func requireContinues(t testing.TB, c *harness.Container, counted int) int {
	t.Helper()
	return requireContinuesAgain(t, c, counted, 0)
}

// requireContinuesAgain is requireContinues for a container whose checkpoint was one of
// a restored container, for earlier times.
func requireContinuesAgain(t testing.TB, c *harness.Container, counted, earlier int) int {
	t.Helper()
	restored := oldLines(t, c)
	lines := c.WaitLog(func(lines []string) bool { return len(lines) >= restored+5 && harness.Count(lines) > counted+5 })
	requireOneStory(t, numbers(lines, "count"), counted, restored, earlier)
	return harness.Count(lines)
}

// requireOneStory checks the numbers of a log whose first restored lines come from
// the checkpoint, with earlier restores among them.
func requireOneStory(t testing.TB, found []int, counted, restored, earlier int) {
	t.Helper()
	if restored < counted || len(found) <= restored {
		t.Fatalf("the log has %d numbers, %d of them from the checkpoint, want at least %d from it and new ones", len(found),
			restored, counted)
	}
	if found[0] != 1 {
		t.Errorf("the log begins with %d, want 1", found[0])
	}
	for i := 1; i < len(found); i++ {
		switch next := found[i-1] + 1; {
		case i < restored && found[i] < next && earlier > 0:
			earlier--
		case i != restored && found[i] != next:
			t.Errorf("line %d of the log: %d comes after %d, want %d", i+1, found[i], found[i-1], next)
		case i == restored && (found[i] > next || found[i] <= counted):
			t.Errorf("the first number after the restore is %d, want one above %d and not above %d", found[i], counted, next)
		}
	}
}

// oldLines returns how many lines the container's checkpoint had logged: those that are
// older than the container. It wants a container that logs numbers only.
func oldLines(t testing.TB, c *harness.Container) int {
	t.Helper()
	created := c.Status().GetCreatedAt()
	return slices.IndexFunc(append(c.LogLines(), harness.LogLine{}), func(l harness.LogLine) bool {
		return l.Time.IsZero() || l.Time.UnixNano() >= created
	})
}

// requireRefused fails the test unless err is of the gRPC code and its text has all the words.
func requireRefused(t testing.TB, err error, code codes.Code, words ...string) {
	t.Helper()
	if status.Code(err) != code {
		t.Errorf("got %s, want %s: %v", status.Code(err), code, err)
		return
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("the error does not say %q: %v", word, err)
		}
	}
}
