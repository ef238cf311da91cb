package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const baseDigest = "sha256:a1a50a6abbb77c1ef7edb8263b9ee361c496a781319c0977926756f66d3ce3e6"

// files is a small checkpoint as containerd writes it.
func files() map[string]string {
	return map[string]string{
		"config.dump": `{"id":"c1","name":"c_p_default_u1_0","rootfsImage":"registry.example/base:1",` +
			`"rootfsImageRef":"registry.example/base@` + baseDigest + `","runtime":"io.containerd.runc.v2",` +
			`"checkpointedTime":"2026-11-23T08:23:58.58585712+01:00"}`,
		"spec.dump": `{"process":{"user":{"uid":1000,"gid":1001}},"root":{"path":"rootfs"},"linux":{},"annotations":{` +
			`"io.kubernetes.cri.container-name":"counter","io.kubernetes.cri.sandbox-name":"pod",` +
			`"io.kubernetes.cri.sandbox-namespace":"default","io.kubernetes.cri.sandbox-uid":"u1","io.kubernetes.cri.sandbox-id":"s1\nx"}}`,
		"checkpoint/inventory.img":    "inventory",
		"checkpoint/descriptors.json": `["/dev/null","pipe:[1]","pipe:[2]"]`,
		"checkpoint/pages-1.img":      strings.Repeat("page", 64<<10),
		"container.log":               "2026-11-23T08:23:58Z stdout F count 1\n",
		"rootfs-diff.tar":             "not looked at",
	}
}

// pack writes an archive of the files, in the given order of names if any.
func pack(t testing.TB, files map[string]string, extra ...*tar.Header) string {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	check(t, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: "checkpoint/", Mode: 0o600}))
	for _, name := range slices.Sorted(maps.Keys(files)) {
		check(t, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o4755, Uid: 7,
			Size: int64(len(files[name]))}))
		_, err := io.WriteString(tw, files[name])
		check(t, err)
	}
	for _, hdr := range extra {
		check(t, tw.WriteHeader(hdr))
	}
	check(t, tw.Close())
	return save(t, buf.Bytes())
}

func save(t testing.TB, data []byte) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "checkpoint.tar")
	check(t, os.WriteFile(file, data, 0o600))
	return file
}

// unpacked reads a layer back, and checks what its entries are.
func unpacked(ctx context.Context, t testing.TB, store content.Provider, layer ocispec.Descriptor) (map[string]string,
	digest.Digest) {
	t.Helper()
	ra, err := store.ReaderAt(ctx, layer)
	check(t, err)
	defer ra.Close()
	stream, err := compression.DecompressStream(content.NewReader(ra))
	check(t, err)
	defer stream.Close()
	var (
		got = make(map[string]string)
		sum = digest.SHA256.Digester()
		tr  = tar.NewReader(io.TeeReader(stream, sum.Hash()))
	)
	for {
		hdr, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		check(t, err)
		if hdr.Uid != 0 || hdr.Gid != 0 || hdr.Mode&0o7077 != 0 || hdr.ModTime.Unix() != 1795418638 {
			t.Errorf("%s: owner %d:%d, mode %o, time %s", hdr.Name, hdr.Uid, hdr.Gid, hdr.Mode, hdr.ModTime.UTC())
		}
		if hdr.Typeflag != tar.TypeDir {
			data, err := io.ReadAll(tr)
			check(t, err)
			got[hdr.Name] = string(data)
		}
	}
	_, err = io.Copy(io.Discard, io.TeeReader(stream, sum.Hash()))
	check(t, err)
	return got, sum.Digest()
}

func TestBuild(t *testing.T) {
	for compression, mediaType := range map[Compression]string{
		"":           ocispec.MediaTypeImageLayerZstd,
		Zstd:         ocispec.MediaTypeImageLayerZstd,
		Gzip:         ocispec.MediaTypeImageLayerGzip,
		Uncompressed: ocispec.MediaTypeImageLayer,
	} {
		t.Run(string(compression), func(t *testing.T) {
			w := newWorld(t)
			store, tmp := w.db.ContentStore(), t.TempDir()
			o := BuildOptions{Compression: compression, TempDir: tmp}
			desc, err := Build(w.ctx, store, pack(t, files()), o)
			check(t, err)
			if left, _ := os.ReadDir(tmp); len(left) != 0 {
				t.Errorf("left %v", left)
			}
			if desc.MediaType != ocispec.MediaTypeImageManifest {
				t.Errorf("made %s", desc.MediaType)
			}
			manifest, err := images.Manifest(w.ctx, store, desc, platforms.Default())
			check(t, err)
			if len(manifest.Layers) != 1 || manifest.Layers[0].MediaType != mediaType {
				t.Fatalf("layers %+v", manifest.Layers)
			}
			got, diffID := unpacked(w.ctx, t, store, manifest.Layers[0])
			if !maps.Equal(got, files()) {
				t.Errorf("layer holds %v", slices.Sorted(maps.Keys(got)))
			}
			blob, err := content.ReadBlob(w.ctx, store, manifest.Config)
			check(t, err)
			var config ocispec.Image
			check(t, json.Unmarshal(blob, &config))
			if config.Config.User != "1000:1001" || config.Created == nil || config.Created.Unix() != 1795418638 ||
				!platforms.Default().Match(config.Platform) || !slices.Equal(config.RootFS.DiffIDs, []digest.Digest{diffID}) ||
				len(config.Config.Env)+len(config.Config.Cmd) != 0 || !maps.Equal(config.Config.Labels, manifest.Annotations) ||
				!isCheckpoint(config.Config.Labels) {
				t.Errorf("config %s", blob)
			}
		})
	}
}

func TestBuildAnnotations(t *testing.T) {
	w := newWorld(t)
	desc, err := Build(w.ctx, w.db.ContentStore(), pack(t, files()),
		BuildOptions{Platform: ocispec.Platform{OS: "linux", Architecture: "arm64"}})
	check(t, err)
	manifest, err := images.Manifest(w.ctx, w.db.ContentStore(), desc, nil)
	check(t, err)
	want := map[string]string{
		"org.criu.checkpoint.engine.name":              "containerd",
		"org.criu.checkpoint.container.name":           "counter",
		"org.criu.checkpoint.pod.name":                 "pod",
		"org.criu.checkpoint.pod.namespace":            "default",
		"org.criu.checkpoint.pod.uid":                  "u1",
		"org.criu.checkpoint.rootfsImageName":          "registry.example/base:1",
		"org.criu.checkpoint.rootfsImageUserRequested": "registry.example/base:1",
		"org.criu.checkpoint.rootfsImageID":            "registry.example/base@" + baseDigest,
		"org.criu.checkpoint.rootfsImageSha":           baseDigest,
		"org.criu.checkpoint.runtime.name":             "io.containerd.runc.v2",
		"org.criu.checkpoint.host.arch":                "arm64",
		"org.opencontainers.image.base.name":           "registry.example/base:1",
		"org.opencontainers.image.base.digest":         baseDigest,
	}
	if !maps.Equal(manifest.Annotations, want) {
		t.Errorf("got  %v\nwant %v", manifest.Annotations, want)
	}

	// Not of a pod, and the base known only by ID.
	few := files()
	few["config.dump"] = `{"rootfsImageRef":"` + baseDigest + `"}`
	few["spec.dump"] = `{"process":{},"root":{},"linux":{}}`
	desc, err = Build(w.ctx, w.db.ContentStore(), pack(t, few), BuildOptions{})
	check(t, err)
	manifest, err = images.Manifest(w.ctx, w.db.ContentStore(), desc, nil)
	check(t, err)
	if _, ok := manifest.Annotations["org.opencontainers.image.base.digest"]; ok || !isCheckpoint(manifest.Annotations) {
		t.Errorf("got %v", manifest.Annotations)
	}
}

// The same checkpoint makes the same image, whatever the archive's compression,
// and wherever it is made.
func TestBuildIsDeterministic(t *testing.T) {
	plain := pack(t, files())
	data, err := os.ReadFile(plain)
	check(t, err)
	var gz, zs bytes.Buffer
	gw := gzip.NewWriter(&gz)
	_, err = gw.Write(data)
	check(t, errors.Join(err, gw.Close()))
	zw, err := zstd.NewWriter(&zs)
	check(t, err)
	_, err = zw.Write(data)
	check(t, errors.Join(err, zw.Close()))

	var first ocispec.Descriptor
	for _, archive := range []string{plain, plain, save(t, gz.Bytes()), save(t, zs.Bytes())} {
		w := newWorld(t)
		desc, err := Build(w.ctx, w.db.ContentStore(), archive, BuildOptions{})
		check(t, err)
		if first.Digest == "" {
			first = desc
		}
		if desc.Digest != first.Digest {
			t.Errorf("%s, then %s", first.Digest, desc.Digest)
		}
	}
}

// What an image needs outlives the lease under which it was made, what no image
// needs does not.
func TestBuildSurvivesGarbageCollection(t *testing.T) {
	for _, named := range []bool{true, false} {
		w := newWorld(t)
		store := w.db.ContentStore()
		manager := metadata.NewLeaseManager(w.db)
		lease, err := manager.Create(w.ctx, leases.WithRandomID())
		check(t, err)
		desc, err := Build(leases.WithLease(w.ctx, lease.ID), store, pack(t, files()), BuildOptions{})
		check(t, err)
		// A blob that is there already gets its labels as well.
		info, err := store.Info(w.ctx, desc.Digest)
		check(t, err)
		fields := []string{}
		for key := range info.Labels {
			fields = append(fields, "labels."+key)
		}
		_, err = store.Update(w.ctx, content.Info{Digest: desc.Digest}, fields...)
		check(t, err)
		again, err := Build(leases.WithLease(w.ctx, lease.ID), store, pack(t, files()), BuildOptions{})
		check(t, err)
		if again.Digest != desc.Digest {
			t.Fatalf("%v, then %v", desc, again)
		}
		if named {
			_, err = w.images.Create(w.ctx, images.Image{Name: "checkpoint:1", Target: desc})
			check(t, err)
		}
		check(t, manager.Delete(w.ctx, lease))
		_, err = w.db.GarbageCollect(w.ctx)
		check(t, err)
		left := 0
		check(t, store.Walk(w.ctx, func(content.Info) error { left++; return nil }))
		if named && left != 3 || !named && left != 0 {
			t.Errorf("named %v: %d blobs left", named, left)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	without := func(name string) map[string]string { f := files(); delete(f, name); return f }
	for name, c := range map[string]struct {
		archive string
		class   func(error) bool
	}{
		"link": {pack(t, files(), &tar.Header{Typeflag: tar.TypeSymlink, Name: "container.lnk",
			Linkname: "/etc/shadow"}), errdefs.IsInvalidArgument},
		"hard link": {pack(t, files(), &tar.Header{Typeflag: tar.TypeLink, Name: "x", Linkname: "/etc/shadow"}),
			errdefs.IsInvalidArgument},
		"device": {pack(t, files(), &tar.Header{Typeflag: tar.TypeBlock, Name: "sda", Devmajor: 8}),
			errdefs.IsInvalidArgument},
		"outside": {pack(t, files(), &tar.Header{Typeflag: tar.TypeReg, Name: "../x"}), errdefs.IsInvalidArgument},
		"twice": {pack(t, files(), &tar.Header{Typeflag: tar.TypeReg, Name: "config.dump"}),
			errdefs.IsInvalidArgument},
		"no inventory":    {pack(t, without("checkpoint/inventory.img")), errdefs.IsInvalidArgument},
		"no spec":         {pack(t, without("spec.dump")), errdefs.IsInvalidArgument},
		"no archive":      {save(t, []byte("hello, this is no tar archive")), errdefs.IsInvalidArgument},
		"nothing there":   {filepath.Join(t.TempDir(), "none"), errdefs.IsNotFound},
		"truncated":       {truncated(t, pack(t, files())), errdefs.IsInvalidArgument},
		"base by a tag":   {pack(t, tagged()), errdefs.IsInvalidArgument},
		"another's image": {pack(t, map[string]string{"bin/sh": "x"}), errdefs.IsInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			root, tmp := t.TempDir(), t.TempDir()
			store, err := local.NewStore(root)
			check(t, err)
			if _, err := Build(t.Context(), store, c.archive, BuildOptions{TempDir: tmp}); !c.class(err) {
				t.Errorf("%v", err)
			}
			for _, dir := range []string{tmp, root} {
				if left, _ := os.ReadDir(dir); len(left) != 0 {
					t.Errorf("left %v", left)
				}
			}
		})
	}
}

func TestBuildCancelled(t *testing.T) {
	w := newWorld(t)
	ctx, cancel := context.WithCancel(w.ctx)
	store := cancelling{w.db.ContentStore(), cancel} // when the layer is begun
	if _, err := Build(ctx, store, pack(t, files()), BuildOptions{}); !errdefs.IsCanceled(err) {
		t.Fatalf("%v", err)
	}
	ingests, err := w.db.ContentStore().ListStatuses(w.ctx)
	check(t, err)
	if len(ingests) != 0 {
		t.Errorf("left ingests %v", ingests)
	}
}

type cancelling struct {
	content.Store
	cancel context.CancelFunc
}

func (c cancelling) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	defer c.cancel()
	return c.Store.Writer(ctx, opts...)
}

func truncated(t testing.TB, file string) string {
	t.Helper()
	check(t, os.Truncate(file, 200<<10))
	return file
}

func tagged() map[string]string {
	f := files()
	f["config.dump"] = strings.Replace(f["config.dump"], "@"+baseDigest, ":1", 1)
	return f
}

func TestParseCompression(t *testing.T) {
	for _, name := range []string{"zstd", "gzip", "none"} {
		if c, err := ParseCompression(name); err != nil || string(c) != name {
			t.Errorf("%s: %s, %v", name, c, err)
		}
	}
	for _, name := range []string{"", "xz", "ZSTD"} {
		if _, err := ParseCompression(name); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", name, err)
		}
	}
}
