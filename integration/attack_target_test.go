package integration

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// lowLimits are limits that an honest checkpoint of a counter keeps by far, and that a
// hostile one can exceed with little work for the test.
const lowLimits = allowArchives + `
max_metadata_size = 262144
max_log_size = 1048576
max_diff_size = 4194304
max_archive_size = 16777216
max_entries = 2000
`

// target is a node that is attacked: it has an honest checkpoint to doctor, and on its
// host a file and a folder that no checkpoint may read or change.
type target struct {
	n       *harness.Node
	pod     *harness.Pod
	archive string
	counted int
	honest  []tarEntry

	secret string // a file of the host
	marker string // what is in it
	host   string // a folder of the host, with the file "victim"
}

func newTarget(t *testing.T) *target {
	t.Helper()
	n := harness.New(t, harness.WithRestoreConfig(lowLimits))
	a := &target{n: n, secret: filepath.Join(n.Dir(), "secret"), marker: unique("secret-of-the-host"),
		host: filepath.Join(n.Dir(), "host")}
	writeHostFile(t, a.secret, a.marker)
	writeHostFile(t, filepath.Join(a.host, "victim"), a.marker)
	a.archive, a.counted = countingCheckpoint(t, n)
	a.honest = entriesOf(t, a.archive)
	a.pod = n.Pod(t)
	return a
}

// refuses fails the test unless the creation of a container from the image is refused,
// leaves nothing, and the same request succeeds with an honest checkpoint.
func (a *target) refuses(t *testing.T, image string, code codes.Code, words ...string) {
	t.Helper()
	a.refusesRequest(t, image, nil, code, words...)
}

// refusesRequest is refuses with options that the honest request does not have.
func (a *target) refusesRequest(t *testing.T, image string, opts []harness.ContainerOpt, code codes.Code,
	words ...string) {
	t.Helper()
	before, logs := a.n.Inventory(t), fileNames(t, a.pod.Config.GetLogDirectory())
	c, err := a.pod.TryCreate("victim", image, opts...)
	if err == nil {
		c.Remove()
		t.Fatalf("a container was created from %s", image)
	}
	requireRefused(t, err, code, words...)
	a.n.RequireNoLeak(t, before)
	if after := fileNames(t, a.pod.Config.GetLogDirectory()); !slices.Equal(logs, after) {
		t.Errorf("log directory: %q, want %q as before", after, logs)
	}
	a.requireUnharmed(t, err.Error())
	twin := a.pod.Create("victim", a.archive)
	twin.Remove()
	forgetLog(t, twin)
	a.n.RequireNoLeak(t, before)
}

// accepts creates a container from something odd that is harmless. What it is good
// for is checked by use, which may be nil; afterwards nothing may be left.
func (a *target) accepts(t *testing.T, image string, use func(*harness.Container)) {
	t.Helper()
	before := a.n.Inventory(t)
	c := a.pod.Create("victim", image)
	if use != nil {
		use(c)
	}
	a.requireUnharmed(t)
	c.Remove()
	forgetLog(t, c)
	a.n.RequireNoLeak(t, before)
}

// requireUnharmed fails the test when the host's files have changed, or their content
// shows up in one of the texts, containerd's log, the containers' or CRIU's kept ones.
func (a *target) requireUnharmed(t *testing.T, texts ...string) {
	t.Helper()
	for _, file := range []string{a.secret, filepath.Join(a.host, "victim")} {
		if got, err := os.ReadFile(file); err != nil || string(got) != a.marker {
			t.Errorf("%s of the host: %q, error %v, want %q", file, got, err, a.marker)
		}
	}
	if got := fileNames(t, a.host); !slices.Equal(got, []string{"victim"}) {
		t.Errorf("files in %s of the host: %q, want only victim", a.host, got)
	}
	texts = append(texts, a.n.DaemonLog())
	for _, dir := range []string{filepath.Dir(a.pod.Config.GetLogDirectory()), a.n.FailedLogDir()} {
		err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			content, err := os.ReadFile(file)
			texts = append(texts, string(content))
			return err
		})
		if err != nil {
			t.Error(err)
		}
	}
	for _, text := range texts {
		if i := strings.Index(text, a.marker); i >= 0 {
			t.Errorf("the host's secret shows up: %q", text[max(0, i-200):i+len(a.marker)])
		}
	}
}

// tarEntry is one entry of a checkpoint archive, or of an image's layer.
type tarEntry struct {
	tar.Header
	content []byte
}

func regularEntry(name, content string) tarEntry {
	return tarEntry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600, Size: int64(len(content))},
		content: []byte(content)}
}

func dirEntry(name string) tarEntry {
	return tarEntry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: 0o700}}
}

func specialEntry(kind byte, name, link string) tarEntry {
	e := tarEntry{Header: tar.Header{Typeflag: kind, Name: name, Linkname: link, Mode: 0o600}}
	if kind == tar.TypeChar || kind == tar.TypeBlock {
		e.Devmajor, e.Devminor = 1, 5 // /dev/zero, which never ends
	}
	return e
}

func entriesOf(t testing.TB, archive string) []tarEntry {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var all []tarEntry
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		e := tarEntry{}
		if err == nil {
			e.Header = *header
			e.content, err = io.ReadAll(r)
		}
		if err != nil {
			t.Fatalf("%s: %v", archive, err)
		}
		all = append(all, e)
	}
}

// withoutEntry leaves out an entry and, of a directory, all that is below it.
func withoutEntry(all []tarEntry, name string) []tarEntry {
	return slices.DeleteFunc(slices.Clone(all), func(e tarEntry) bool {
		clean := path.Clean(e.Name)
		return clean == name || strings.HasPrefix(clean, name+"/")
	})
}

// withEntries replaces the entries of the same name, or adds new ones at the end.
func withEntries(all []tarEntry, added ...tarEntry) []tarEntry {
	for _, e := range added {
		all = withoutEntry(all, path.Clean(e.Name))
	}
	return append(slices.Clone(all), added...)
}

func writeEntries(w io.Writer, all []tarEntry) error {
	tw := tar.NewWriter(w)
	for _, e := range all {
		if err := tw.WriteHeader(&e.Header); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
		if _, err := tw.Write(e.content); err != nil {
			return fmt.Errorf("%s: %w", e.Name, err)
		}
	}
	return tw.Close()
}

// packed is a plain tar of the entries.
func packed(t testing.TB, all []tarEntry) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := writeEntries(&buf, all); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// doctoredArchive writes a checkpoint archive into the node's folder.
func doctoredArchive(t testing.TB, n *harness.Node, all []tarEntry) string {
	t.Helper()
	name := filepath.Join(n.Dir(), unique("doctored")+".tar")
	writeHostFile(t, name, string(packed(t, all)))
	t.Cleanup(func() { os.Remove(name) })
	return name
}

func writeHostFile(t testing.TB, name, content string) {
	t.Helper()
	err := os.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil {
		err = os.WriteFile(name, []byte(content), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// fileNames lists a folder, which may be absent.
func fileNames(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var found []string
	for _, e := range entries {
		found = append(found, e.Name())
	}
	return found
}

// forgetLog removes the log of a container that is gone, as the kubelet does.
func forgetLog(t testing.TB, c *harness.Container) {
	t.Helper()
	if err := os.Remove(c.LogFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

// goesOn shows that the node still restores.
func (a *target) goesOn(t *testing.T) {
	t.Helper()
	c := a.pod.Run("counter", a.archive)
	requireContinues(t, c, a.counted)
}
