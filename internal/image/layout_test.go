package image

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// tree lists what is below dir, with blobs as "blob".
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	check(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, path)
			if strings.HasPrefix(rel, "blobs/sha256/") {
				rel = "blob"
			}
			found = append(found, rel)
		}
		return err
	}))
	slices.Sort(found)
	return found
}

func readIndex(t *testing.T, dir string) ocispec.Index {
	t.Helper()
	var index ocispec.Index
	data, err := os.ReadFile(filepath.Join(dir, "index.json"))
	check(t, err)
	check(t, json.Unmarshal(data, &index))
	return index
}

func TestBuildLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	first, err := BuildLayout(t.Context(), dir, "registry.example/a:1", pack(t, files()), BuildOptions{})
	check(t, err)
	complete := []string{"blob", "blob", "blob", "index.json", "oci-layout"}
	if got := tree(t, dir); !slices.Equal(got, complete) {
		t.Errorf("layout holds %v", got)
	}
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "oci-layout"))
	check(t, err)
	if strings.TrimSpace(string(data)) != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout %s", data)
	}

	// The same image under another name, then another image under the first.
	_, err = BuildLayout(t.Context(), dir, "registry.example/b:1", pack(t, files()), BuildOptions{})
	check(t, err)
	if got := tree(t, dir); !slices.Equal(got, complete) {
		t.Errorf("layout holds %v", got)
	}
	second, err := BuildLayout(t.Context(), dir, "registry.example/a:1", pack(t, files()), BuildOptions{Compression: Gzip})
	check(t, err)
	index := readIndex(t, dir)
	if len(index.Manifests) != 2 {
		t.Fatalf("index %+v", index)
	}
	for i, want := range []struct {
		name string
		desc ocispec.Descriptor
	}{{"registry.example/b:1", first}, {"registry.example/a:1", second}} {
		got := index.Manifests[i]
		if got.Digest != want.desc.Digest || got.Size != want.desc.Size || got.MediaType != ocispec.MediaTypeImageManifest ||
			got.Annotations["org.opencontainers.image.ref.name"] != want.name ||
			got.Annotations["io.containerd.image.name"] != want.name {
			t.Errorf("entry %d: %+v", i, got)
		}
	}
	store, err := local.NewStore(dir)
	check(t, err)
	for _, desc := range []ocispec.Descriptor{first, second} {
		if _, err := store.Info(t.Context(), desc.Digest); err != nil {
			t.Error(err)
		}
	}
}

func TestBuildRelative(t *testing.T) {
	archive := pack(t, files())
	t.Chdir(t.TempDir())
	want, err := BuildLayout(t.Context(), "layout", "a:1", archive, BuildOptions{})
	check(t, err)
	got, err := BuildArchive(t.Context(), "image.tar", "a:1", archive, BuildOptions{TempDir: "."})
	check(t, err)
	if got.Digest != want.Digest || !slices.Equal(entries(t, "."), []string{"image.tar", "layout"}) {
		t.Errorf("%s and %s, left %v", want.Digest, got.Digest, entries(t, "."))
	}
}

func TestWriteLayoutKeepsOthers(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "index.json"), []byte(`{"schemaVersion":2,"annotations":{"k":"v"},"manifests":[
		{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"`+baseDigest+`","size":1},
		{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"`+baseDigest+`","size":2,"annotations":{"org.opencontainers.image.ref.name":"a"}},
		{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"`+baseDigest+`","size":3,"annotations":{"org.opencontainers.image.ref.name":"a","io.containerd.image.name":"b"}}]}`), 0o644))
	check(t, WriteLayout(dir, "a", ocispec.Descriptor{Digest: baseDigest, Size: 4}))
	index := readIndex(t, dir)
	var sizes []int64
	for _, m := range index.Manifests {
		sizes = append(sizes, m.Size)
	}
	if !slices.Equal(sizes, []int64{1, 3, 4}) || index.Annotations["k"] != "v" {
		t.Errorf("%+v", index)
	}

	for _, broken := range []string{"not JSON", `{"manifests":{}}`} {
		check(t, os.WriteFile(filepath.Join(dir, "index.json"), []byte(broken), 0o644))
		if err := WriteLayout(dir, "a", ocispec.Descriptor{}); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("%v", err)
		}
		if data, _ := os.ReadFile(filepath.Join(dir, "index.json")); string(data) != broken {
			t.Errorf("index is now %s", data)
		}
	}
	check(t, os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"9"}`), 0o644))
	if err := WriteLayout(dir, "a", ocispec.Descriptor{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("%v", err)
	}
}

func TestWriteLayoutTogether(t *testing.T) {
	dir := t.TempDir()
	var wg sync.WaitGroup
	for _, name := range strings.Split("abcdefghijkl", "") {
		wg.Go(func() {
			if err := WriteLayout(dir, name, ocispec.Descriptor{Digest: baseDigest}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := len(readIndex(t, dir).Manifests); n != 12 {
		t.Errorf("%d entries", n)
	}
}

func TestBuildLayoutFails(t *testing.T) {
	bad := save(t, []byte("this is no archive"))
	parent := t.TempDir()
	dir := filepath.Join(parent, "layout")
	if _, err := BuildLayout(t.Context(), dir, "a", bad, BuildOptions{}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("%v", err)
	}
	if left := entries(t, parent); len(left) != 0 {
		t.Errorf("left %v", left)
	}
	// One that is there stays as it is.
	_, err := BuildLayout(t.Context(), dir, "a", pack(t, files()), BuildOptions{})
	check(t, err)
	before := tree(t, dir)
	if _, err := BuildLayout(t.Context(), dir, "b", bad, BuildOptions{}); err == nil {
		t.Error("no error")
	}
	if after := tree(t, dir); !slices.Equal(before, after) || len(entries(t, dir)) != 3 {
		t.Errorf("before %v, after %v", before, after)
	}
	if _, err := BuildLayout(t.Context(), filepath.Join(parent, "no", "such"), "a", bad, BuildOptions{}); err == nil {
		t.Error("no error")
	}
}

func TestBuildArchive(t *testing.T) {
	parent := t.TempDir()
	file := filepath.Join(parent, "image.tar")
	desc, err := BuildArchive(t.Context(), file, "registry.example/a:1", pack(t, files()), BuildOptions{})
	check(t, err)
	if fi, err := os.Stat(file); err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", fi.Mode(), err)
	}
	before, err := os.ReadFile(file)
	check(t, err)

	// containerd imports it.
	w := newWorld(t)
	f, err := os.Open(file)
	check(t, err)
	defer f.Close()
	imported, err := archive.ImportIndex(w.ctx, w.db.ContentStore(), f)
	check(t, err)
	index := w.db.ContentStore()
	ra, err := index.ReaderAt(w.ctx, imported)
	check(t, err)
	defer ra.Close()
	blob := make([]byte, ra.Size())
	_, err = ra.ReadAt(blob, 0)
	check(t, err)
	if !strings.Contains(string(blob), desc.Digest.String()) || !strings.Contains(string(blob), "registry.example/a:1") {
		t.Errorf("imported %s", blob)
	}
	if _, err := w.db.ContentStore().Info(w.ctx, desc.Digest); err != nil {
		t.Error(err)
	}

	// A failure leaves the old one, and nothing else.
	if _, err := BuildArchive(t.Context(), file, "registry.example/a:2", save(t, []byte("none")),
		BuildOptions{}); err == nil {
		t.Error("no error")
	}
	after, err := os.ReadFile(file)
	check(t, err)
	if string(before) != string(after) || len(entries(t, parent)) != 1 {
		t.Errorf("left %v", entries(t, parent))
	}
	_, err = BuildArchive(t.Context(), file, "registry.example/a:1", pack(t, files()), BuildOptions{})
	check(t, err)
	if again, _ := os.ReadFile(file); string(again) != string(before) {
		t.Error("the same checkpoint makes another archive")
	}
}

func entries(t *testing.T, dir string) (names []string) {
	t.Helper()
	found, err := os.ReadDir(dir)
	check(t, err)
	for _, e := range found {
		names = append(names, e.Name())
	}
	return names
}
