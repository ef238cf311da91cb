package cri

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
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
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
	"github.com/cri-restore/cri-restore/internal/image"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/restore"
)

const (
	snapshotter    = "native"
	checkpointName = "registry.example/counter:1"
	baseRepository = "registry.example/base"
	sandbox        = "5a4db0"
	oldLog         = "2026-11-23T08:00:01Z stdout F count 1\n"
)

// world is a node: containerd's own metadata, content and snapshots in a
// temporary directory, a fake CRI plugin on them, and the decorators around it.
type world struct {
	t       *testing.T
	ctx     context.Context
	dir     string
	db      *metadata.DB
	faults  *faults
	sn      *faultySnapshotter
	inner   *fakeRuntime
	images  *fakeImages
	node    *Node
	runtime *Runtime
	service *Images
	base    string // digest of the base image's manifest
	baseID  string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), faults: &faults{}, ctx: namespaces.WithNamespace(t.Context(), "k8s.io")}
	t.Cleanup(w.noMounts)
	// Not on the disk: the many databases of these tests would wait for it.
	check(t, unix.Mount("test", w.dir, "tmpfs", 0, ""))
	blobs, err := local.NewStore(filepath.Join(w.dir, "content"))
	check(t, err)
	sn, err := native.NewSnapshotter(filepath.Join(w.dir, "native"))
	check(t, err)
	bolt, err := bbolt.Open(filepath.Join(w.dir, "meta.db"), 0o600, &bbolt.Options{NoSync: true})
	check(t, err)
	t.Cleanup(func() { check(t, errors.Join(sn.Close(), bolt.Close())) })
	w.db = metadata.NewDB(bolt, blobs, map[string]snapshots.Snapshotter{snapshotter: sn})
	check(t, w.db.Init(t.Context()))

	w.sn = &faultySnapshotter{Snapshotter: w.db.Snapshotter(snapshotter), f: w.faults}
	store := faultyContainers{metadata.NewContainerStore(w.db), w.faults}
	manager := faultyLeases{metadata.NewLeaseManager(w.db), w.faults}
	client, err := containerd.New("", containerd.WithServices(
		containerd.WithContentStore(faultyContent{w.db.ContentStore(), w.faults}),
		containerd.WithImageStore(metadata.NewImageStore(w.db)),
		containerd.WithContainerStore(store),
		containerd.WithSnapshotters(map[string]snapshots.Snapshotter{snapshotter: w.sn}),
		containerd.WithLeasesService(manager),
		containerd.WithDiffService(applier{provider: w.db.ContentStore()}),
	))
	check(t, err)
	admitAll, err := policy.New(policy.Config{AllowArchives: true, Images: []string{"**"}, Namespaces: []string{"*"}})
	check(t, err)
	w.node = &Node{
		Audit:  true, // the images say no more than criuImages; verify's tests and the integration tests have whole ones
		Client: client, Snapshotters: []string{"absent", snapshotter}, Policy: admitAll,
		Limits: checkpoint.DefaultLimits(), PullTimeout: time.Minute,
		Restores: &restore.Store{
			Containers: store, Leases: manager, Transact: w.db.Update,
			Snapshotter: func(string) snapshots.Snapshotter { return w.sn },
			Dirs:        restore.Dirs{Root: filepath.Join(w.dir, "root"), State: filepath.Join(w.dir, "state")},
			Bundles:     filepath.Join(w.dir, "bundles"), Limits: checkpoint.DefaultLimits(),
		},
	}
	w.images = &fakeImages{f: w.faults, known: map[string]string{}}
	w.inner = &fakeRuntime{
		f: w.faults, containers: store.Store, snapshotter: w.sn.Snapshotter, names: map[string]string{},
		keep: map[string]bool{},
		sandboxes: map[string]*runtime.PodSandboxStatus{sandbox: {Id: sandbox,
			Metadata: &runtime.PodSandboxMetadata{Namespace: "default"}}},
	}
	w.runtime, w.service = New(w.node, w.inner, w.images)
	w.sandboxContainer(sandbox, restore.RuntimeRunc)
	w.baseImage()
	return w
}

// sandboxContainer is what containerd keeps of a pod.
func (w *world) sandboxContainer(id, runtimeName string) {
	w.t.Helper()
	_, err := w.inner.containers.Create(w.ctx, containers.Container{
		ID: id, Snapshotter: snapshotter, Runtime: containers.RuntimeInfo{Name: runtimeName},
		Spec: jsonAny("x", []byte("{}")),
	})
	check(w.t, err)
}

func (w *world) document(mediaType string, v any) ocispec.Descriptor {
	w.t.Helper()
	blob, err := json.Marshal(v)
	check(w.t, err)
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	check(w.t, content.WriteBlob(w.ctx, w.db.ContentStore(), desc.Digest.String(), bytes.NewReader(blob), desc,
		content.WithLabels(map[string]string{"containerd.io/gc.root": "test"})))
	return desc
}

// image puts a manifest into the image store as containerd's CRI does.
func (w *world) image(target ocispec.Descriptor, refs ...string) string {
	w.t.Helper()
	config, err := images.Config(w.ctx, w.db.ContentStore(), target, platforms.Default())
	check(w.t, err)
	id := config.Digest.String()
	for _, name := range append([]string{id}, refs...) {
		_, err := metadata.NewImageStore(w.db).Create(w.ctx, images.Image{Name: name, Target: target})
		check(w.t, err)
		w.images.add(name, id)
	}
	return id
}

// digestOf is the digest of what a name in the image store means.
func (w *world) digestOf(name string) string {
	w.t.Helper()
	img, err := metadata.NewImageStore(w.db).Get(w.ctx, name)
	check(w.t, err)
	return img.Target.Digest.String()
}

// failing is a store of containers that cannot be asked.
type failing struct{ containers.Store }

func (failing) List(context.Context, ...string) ([]containers.Container, error) {
	return nil, errInjected
}

func (w *world) baseImage() {
	w.t.Helper()
	config := w.document(ocispec.MediaTypeImageConfig,
		ocispec.Image{Platform: platforms.DefaultSpec(), Author: "base", RootFS: ocispec.RootFS{Type: "layers"}})
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config}
	manifest.SchemaVersion = 2
	desc := w.document(ocispec.MediaTypeImageManifest, manifest)
	w.base, w.baseID = desc.Digest.String(), w.image(desc, baseRepository+":1")
}

// files are those of a checkpoint that containerd took.
func (w *world) files() map[string]string {
	w.t.Helper()
	spec, err := json.Marshal(specOfPod())
	check(w.t, err)
	files := map[string]string{
		"config.dump": `{"id":"c1","name":"counter_pod_default_u_0","rootfsImage":"` + baseRepository +
			`:1","rootfsImageRef":"` + baseRepository + `@` + w.base +
			`","runtime":"io.containerd.runc.v2","checkpointedTime":"2026-11-23T09:00:00+01:00"}`,
		"spec.dump":                   string(spec),
		"checkpoint/descriptors.json": `["/dev/null","pipe:[1]","pipe:[2]"]`,
		"container.log":               oldLog,
		"rootfs-diff.tar":             tarball(w.t, map[string]string{"data/new": "changed", "data/.wh.gone": ""}),
	}
	for name, image := range criuImages {
		files["checkpoint/"+name] = image
	}
	return files
}

// criuImages say what specOfPod does: PID and mount namespace were the process's own. What else they say is no more
// than an audit needs: which processes and mounts there are.
var criuImages = func() map[string]string {
	all := criutest.Tasks(criutest.Task{PID: 1})
	shared := criutest.Images(criutest.Processes{1: {specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace,
		specs.UserNamespace}})
	all["ids-1.img"], all["inventory.img"] = shared["ids-1.img"], shared["inventory.img"]
	all["mountpoints-2.img"] = criutest.Image("MNTS", criutest.Mount(1, 99, "/", mnt.Fstype_OVERLAYFS, "", 0))
	return all
}()

// checkpointImage publishes a checkpoint as an image and returns its ID.
func (w *world) checkpointImage(name string, files map[string]string) string {
	w.t.Helper()
	desc, err := image.Publish(w.ctx, w.node.Client, snapshotter, name, w.archive(files), image.BuildOptions{})
	check(w.t, err)
	check(w.t, metadata.NewImageStore(w.db).Delete(w.ctx, name))
	return w.image(desc, name)
}

// hollowImage is an ordinary image that looks like a checkpoint: its label is one that images inherit.
func (w *world) hollowImage(name string) string {
	w.t.Helper()
	config := w.document(ocispec.MediaTypeImageConfig, ocispec.Image{
		Platform: platforms.DefaultSpec(),
		Config:   ocispec.ImageConfig{Labels: map[string]string{"org.criu.checkpoint.container.name": "c"}},
		RootFS:   ocispec.RootFS{Type: "layers"},
	})
	manifest := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config}
	manifest.SchemaVersion = 2
	return w.image(w.document(ocispec.MediaTypeImageManifest, manifest), name)
}

func (w *world) archive(files map[string]string) string {
	w.t.Helper()
	file := filepath.Join(w.t.TempDir(), "checkpoint.tar")
	check(w.t, os.WriteFile(file, []byte(tarball(w.t, files)), 0o600))
	return file
}

func tarball(t testing.TB, files map[string]string) string {
	t.Helper()
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		check(t, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(files[name]))}))
		_, err := tw.Write([]byte(files[name]))
		check(t, err)
	}
	check(t, tw.Close())
	return buf.String()
}

// applier unpacks a layer into a snapshot of the native snapshotter.
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
	var plain bytes.Buffer
	if _, err := plain.ReadFrom(stream); err != nil {
		return ocispec.Descriptor{}, err
	}
	sum := digest.FromBytes(plain.Bytes())
	size, err := archive.Apply(ctx, mounts[0].Source, &plain)
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: sum, Size: size}, err
}

func (w *world) noMounts() {
	for range 10 {
		infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(w.dir))
		check(w.t, err)
		if len(infos) == 0 {
			return
		}
		for _, i := range slices.Backward(infos) {
			_ = unix.Unmount(i.Mountpoint, unix.MNT_DETACH)
		}
	}
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantError(t *testing.T, err error, is func(error) bool, says ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	if !is(err) {
		t.Errorf("wrong class: %v", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error does not say %q: %v", s, err)
		}
	}
}
