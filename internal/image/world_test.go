package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/containerd/containerd/v2/pkg/archive/compression"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/upstream"
)

const snapshotter = "native"

// world is containerd's metadata, content, image, lease and snapshot stores in a
// temporary directory, with a client on them, and no daemon.
type world struct {
	t      testing.TB
	ctx    context.Context
	db     *metadata.DB
	images images.Store
	client *containerd.Client
	reads  *counting // what the detector and the base images read from
}

func newWorld(t testing.TB) *world {
	t.Helper()
	root := t.TempDir()
	blobs, err := local.NewStore(filepath.Join(root, "content"))
	check(t, err)
	sn, err := native.NewSnapshotter(filepath.Join(root, "native"))
	check(t, err)
	bolt, err := bbolt.Open(filepath.Join(root, "meta.db"), 0o600, nil)
	check(t, err)
	t.Cleanup(func() { check(t, errors.Join(sn.Close(), bolt.Close())) })
	db := metadata.NewDB(bolt, blobs, map[string]snapshots.Snapshotter{snapshotter: sn})
	check(t, db.Init(t.Context()))
	w := &world{
		t:      t,
		ctx:    namespaces.WithNamespace(t.Context(), upstream.Namespace),
		db:     db,
		images: metadata.NewImageStore(db),
		reads:  &counting{Provider: db.ContentStore()},
	}
	w.client, err = containerd.New("", containerd.WithServices(
		containerd.WithContentStore(db.ContentStore()),
		containerd.WithImageStore(w.images),
		containerd.WithSnapshotters(map[string]snapshots.Snapshotter{snapshotter: db.Snapshotter(snapshotter)}),
		containerd.WithLeasesService(metadata.NewLeaseManager(db)),
		containerd.WithDiffService(applier{provider: db.ContentStore()}),
	))
	check(t, err)
	return w
}

func (w *world) blob(mediaType string, blob []byte) ocispec.Descriptor {
	w.t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	check(w.t, content.WriteBlob(w.ctx, w.db.ContentStore(), desc.Digest.String(), bytes.NewReader(blob), desc))
	return desc
}

func (w *world) document(mediaType string, v any) ocispec.Descriptor {
	w.t.Helper()
	blob, err := json.Marshal(v)
	check(w.t, err)
	return w.blob(mediaType, blob)
}

// manifest stores an image without layers. Its labels make the ID unique.
func (w *world) manifest(labels, annotations map[string]string) (desc, config ocispec.Descriptor) {
	w.t.Helper()
	config = w.document(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: platforms.DefaultSpec(),
		Config:   ocispec.ImageConfig{Labels: labels},
		RootFS:   ocispec.RootFS{Type: "layers"},
	})
	return w.document(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Config:      config,
		Annotations: annotations,
	}), config
}

func (w *world) index(annotations map[string]string, manifests ...ocispec.Descriptor) ocispec.Descriptor {
	w.t.Helper()
	return w.document(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageIndex,
		Manifests:   manifests,
		Annotations: annotations,
	})
}

// store makes the entry that the CRI keeps for an image that it has.
func (w *world) store(cri *fakeCRI, target ocispec.Descriptor, refs ...string) string {
	w.t.Helper()
	config, err := images.Config(w.ctx, w.db.ContentStore(), target, platforms.Default())
	check(w.t, err)
	id := config.Digest.String()
	for _, name := range append([]string{id}, refs...) {
		_, err := w.images.Create(w.ctx, images.Image{Name: name, Target: target})
		check(w.t, err)
		cri.add(name, id)
	}
	return id
}

// fakeCRI is the CRI image service as far as its answers matter here.
type fakeCRI struct {
	mu    sync.Mutex
	known map[string]string // reference or ID to ID
	pulls []*runtime.PullImageRequest
	pull  func(context.Context, *runtime.PullImageRequest) (string, error)
}

func (f *fakeCRI) add(ref, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		f.known = make(map[string]string)
	}
	f.known[ref] = id
}

func (f *fakeCRI) ImageStatus(_ context.Context, r *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id, ok := f.known[r.GetImage().GetImage()]
	if !ok {
		return &runtime.ImageStatusResponse{}, nil
	}
	img := &runtime.Image{Id: id}
	for ref := range f.known {
		if ref != id && f.known[ref] == id {
			img.RepoTags = append(img.RepoTags, ref)
		}
	}
	return &runtime.ImageStatusResponse{Image: img}, nil
}

func (f *fakeCRI) PullImage(ctx context.Context, r *runtime.PullImageRequest) (*runtime.PullImageResponse, error) {
	f.mu.Lock()
	f.pulls = append(f.pulls, r)
	pull := f.pull
	f.mu.Unlock()
	id, err := pull(ctx, r)
	if err != nil {
		return nil, err
	}
	return &runtime.PullImageResponse{ImageRef: id}, nil
}

func (f *fakeCRI) pulled() []*runtime.PullImageRequest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.pulls
}

// counting counts the blobs that are read.
type counting struct {
	content.Provider
	mu    sync.Mutex
	count int
	err   error // of the next read, if set
}

func (c *counting) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	c.mu.Lock()
	c.count++
	err := c.err
	c.err = nil
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return c.Provider.ReaderAt(ctx, desc)
}

func (c *counting) reset() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, c.count = c.count, 0
	return n
}

// applier applies a layer to a snapshot of the native snapshotter without
// mounting it, which would need root.
type applier struct {
	containerd.DiffService
	provider content.Provider
}

func (a applier) Apply(ctx context.Context, desc ocispec.Descriptor, mounts []mount.Mount,
	_ ...diff.ApplyOpt) (ocispec.Descriptor, error) {
	ra, err := a.provider.ReaderAt(ctx, desc)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer ra.Close()
	stream, err := compression.DecompressStream(content.NewReader(ra))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer stream.Close()
	sum := digest.SHA256.Digester()
	size, err := archive.Apply(ctx, mounts[0].Source, teeReader{stream, sum})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: sum.Digest(), Size: size}, nil
}

type teeReader struct {
	r   interface{ Read([]byte) (int, error) }
	sum digest.Digester
}

func (t teeReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	_, _ = t.sum.Hash().Write(p[:n])
	return n, err
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
