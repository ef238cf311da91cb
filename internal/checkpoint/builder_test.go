package checkpoint

import (
	"archive/tar"
	"bytes"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/archive/compression"
)

const (
	hexA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	hexB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
)

// files is a checkpoint: content by name.
type files map[string]string

// with returns a copy with one file changed.
func (f files) with(name, content string) files {
	f = maps.Clone(f)
	f[name] = content
	return f
}

// without returns a copy with one file less.
func (f files) without(name string) files {
	f = maps.Clone(f)
	delete(f, name)
	return f
}

// images are what CRIU and runc write, for all engines the same.
func (f files) images() files {
	f["checkpoint/inventory.img"] = "inventory"
	f["checkpoint/descriptors.json"] = `["/dev/null","pipe:[11]","pipe:[12]"]`
	f["checkpoint/pages-1.img"] = strings.Repeat("p", 4096)
	f["checkpoint/pages-2.img"] = strings.Repeat("q", 8192)
	f["checkpoint/pagemap-1.img"] = "pagemap"
	return f
}

const linuxSpec = `"ociVersion":"1.2.0","process":{"args":["sh"],"cwd":"/"},"root":{"path":"rootfs"},"linux":{"namespaces":[{"type":"pid"}]}`

// containerdFiles is what containerd 2.4 writes.
func containerdFiles() files {
	return files{
		"config.dump": `{"id":"c1","name":"counter_pod_default_uid_0","rootfsImage":"registry.example:5000/base:1",` +
			`"rootfsImageRef":"registry.example:5000/base@sha256:` + hexA +
			`","rootfsImageName":"registry.example:5000/base:1",` +
			`"runtime":"io.containerd.runc.v2","createdTime":"2026-11-23T08:00:00Z","checkpointedTime":"2026-11-23T09:00:00Z",` +
			`"restoredTime":"0001-01-01T00:00:00Z","restored":false}`,
		"spec.dump":       `{` + linuxSpec + `,"annotations":{"io.kubernetes.cri.container-name":"counter"}}`,
		"status.dump":     `{"id":"c1"}`,
		"status":          `{"Version":"v1"}`,
		"container.log":   "2026-11-23T08:00:01Z stdout F count 1\n",
		"rootfs-diff.tar": "gzip",
		"dump.log":        "log",
		"stats-dump":      "stats",
	}.images()
}

// crioFiles is what CRI-O 1.36 writes.
func crioFiles() files {
	return files{
		"config.dump": `{"id":"c2","name":"k8s_counter_pod_default_uid_0","rootfsImage":"registry.example:5000/base:1",` +
			`"rootfsImageRef":"` + hexB + `","rootfsImageName":"registry.example:5000/base:1","runtime":"runc",` +
			`"createdTime":"2026-11-23T08:00:00Z","checkpointedTime":"2026-11-23T09:00:00Z"}`,
		"spec.dump": `{` + linuxSpec + `,"annotations":{"io.container.manager":"cri-o",` +
			`"io.kubernetes.cri-o.ImageRepoDigests":"registry.example:5000/base@sha256:` + hexA + `"}}`,
		"io.kubernetes.cri-o.LogPath": "2026-11-23T08:00:01Z stdout F count 1\n",
		"rootfs-diff.tar":             "plain",
		"deleted.files":               `["/data/delme","/data/dir/"]`,
		"bind.mounts":                 `[]`,
		"dump.log":                    "log",
	}.images()
}

// podmanFiles is what Podman 4 and 5 write.
func podmanFiles() files {
	return files{
		"config.dump": `{"spec":{"ociVersion":"1.0.2"},"id":"c3","name":"counter","lockID":0,"RawImageName":"base",` +
			`"rootfsImageID":"` + hexB + `","rootfsImageName":"registry.example:5000/base:1","runtime":"runc",` +
			`"createdTime":"2026-11-23T08:00:00Z"}`,
		"spec.dump":             `{` + linuxSpec + `,"annotations":{"io.container.manager":"libpod"}}`,
		"network.status":        `null`,
		"ctr.log":               "2026-11-23T08:00:01Z stdout F count 1\n",
		"rootfs-diff.tar":       "plain",
		"deleted.files":         `["/data/delme"]`,
		"devshm-checkpoint.tar": "shm",
		"volumes/data.tar":      "volume",
	}.images()
}

// tree writes the files into a new directory and returns it.
func (f files) tree(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range f {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// entries returns the files as the entries of an archive, with CRI-O's and
// Podman's mode of the checkpoint directory.
func (f files) entries() []entry {
	var out []entry
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if path.Dir(name) == "checkpoint" && !slices.ContainsFunc(out,
			func(e entry) bool { return e.Name == "checkpoint/" }) {
			out = append(out, entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: "checkpoint/", Mode: 0o600}})
		}
		out = append(out, file(name, f[name]))
	}
	return out
}

// entry is an entry of an archive.
type entry struct {
	tar.Header
	content string
}

func file(name, content string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))}, content}
}

func dir(name string) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

func special(name string, typeflag byte, link string) entry {
	return entry{Header: tar.Header{Typeflag: typeflag, Name: name, Linkname: link, Mode: 0o644}}
}

// tarball returns the archive of the entries.
func tarball(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, e := range entries {
		if err := tw.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func compressed(t testing.TB, data []byte, c compression.Compression) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := compression.CompressStream(&buf, c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// stored writes an archive to disk and returns its path.
func stored(t testing.TB, data []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "checkpoint.tar")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// wantError checks the class of an error and that it says something.
func wantError(t *testing.T, err error, is func(error) bool, says ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	if !is(err) {
		t.Errorf("wrong class: %v", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error does not say %q: %v", s, err)
		}
	}
	if len(err.Error()) > 2048 {
		t.Errorf("error of %d bytes", len(err.Error()))
	}
}
