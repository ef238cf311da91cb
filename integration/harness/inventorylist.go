package harness

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// listContainerd lists what containerd's metadata store holds, after a garbage collection.
func (n *Node) listContainerd(ctx context.Context, inv Inventory) error {
	ctx = namespaces.WithNamespace(ctx, k8sNamespace)
	client := n.Client()
	manager := client.LeasesService()
	// The deletion of a lease can wait for a garbage collection: containerd has no other call for it.
	lease, err := manager.Create(ctx, leases.WithID(n.unique("harness-gc")))
	if err != nil {
		return fmt.Errorf("create lease: %w", err)
	}
	if err := manager.Delete(ctx, lease, leases.SynchronousDelete); err != nil {
		return fmt.Errorf("collect garbage: %w", err)
	}
	found, err := manager.List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, l := range found {
		inv.add(KindLease, l.ID, fmt.Sprintf("%s %v", l.ID, l.Labels))
	}
	images, err := client.ImageService().List(ctx)
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, image := range images {
		inv.add(KindImage, image.Name, image.Name+" "+image.Target.Digest.String())
	}
	containers, err := client.ContainerService().List(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers {
		inv.add(KindContainer, c.ID, c.ID+" of "+c.Image)
	}
	sandboxes, err := client.SandboxStore().List(ctx)
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	for _, s := range sandboxes {
		inv.add(KindSandbox, "containerd "+s.ID, "")
	}
	err = client.SnapshotService(n.opts.snapshotter).Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		inv.add(KindSnapshot, info.Name, fmt.Sprintf("%s (%s) %v", info.Name, info.Kind, info.Labels))
		return nil
	})
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	store := client.ContentStore()
	err = store.Walk(ctx, func(info content.Info) error {
		inv.add(KindContent, info.Digest.String(), fmt.Sprintf("%s (%d bytes) %v", info.Digest, info.Size, info.Labels))
		return nil
	})
	if err != nil {
		return fmt.Errorf("list content: %w", err)
	}
	ingests, err := store.ListStatuses(ctx)
	if err != nil {
		return fmt.Errorf("list ingests: %w", err)
	}
	for _, in := range ingests {
		inv.add(KindIngest, in.Ref, "")
	}
	return nil
}

// listCRI lists what CRI keeps in memory and on disk beside containerd's store.
func (n *Node) listCRI(ctx context.Context, inv Inventory) error {
	containers, err := n.Runtime().ListContainers(ctx, &runtime.ListContainersRequest{})
	if err != nil {
		return fmt.Errorf("list CRI containers: %w", err)
	}
	for _, c := range containers.GetContainers() {
		inv.add(KindCRI, c.GetId(), fmt.Sprintf("%s %s %s", c.GetMetadata().GetName(), c.GetId(), c.GetState()))
	}
	pods, err := n.Runtime().ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list CRI pods: %w", err)
	}
	for _, p := range pods.GetItems() {
		inv.add(KindSandbox, "CRI "+p.GetId(), fmt.Sprintf("CRI %s %s %s", p.GetMetadata().GetName(), p.GetId(),
			p.GetState()))
	}
	return nil
}

// listFiles lists the folders where containerd, CRI, shims, runc and our plugin keep
// one entry per object.
func (n *node) listFiles(inv Inventory) error {
	var errs []error
	for _, dir := range []string{
		n.path("tmp"),
		n.path("s"),
		n.path("root", "tmpmounts"),
		n.path("root", "io.containerd.runtime.v2.task", k8sNamespace),
		n.path("state", "io.containerd.runtime.v2.task", k8sNamespace),
		n.path("root", "io.containerd.grpc.v1.cri", "containers"),
		n.path("root", "io.containerd.grpc.v1.cri", "sandboxes"),
		n.path("state", "io.containerd.grpc.v1.cri", "containers"),
		n.path("state", "io.containerd.grpc.v1.cri", "sandboxes"),
		n.path("state", "io.containerd.grpc.v1.cri", "netns"),
		n.path("root", "io.containerd.snapshotter.v1."+n.opts.snapshotter, "snapshots"),
		filepath.Join(n.runcRoot, k8sNamespace),
	} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, entry := range entries {
			path := filepath.Join(dir, entry.Name())
			if n.runcRoot == defaultRuncRoot && strings.HasPrefix(path, defaultRuncRoot) && !n.ownsRuncState(path) {
				continue
			}
			inv.add(KindFile, path, "")
		}
	}
	// Our plugin's folders, whole: what is in them is for us to explain.
	for _, dir := range []string{n.path("root", restorePlugin), n.path("state", restorePlugin)} {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // never made, or removed while we walk
			}
			if err == nil && path != dir {
				inv.add(KindFile, path, "")
			}
			return err
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ownsRuncState says whether an entry of the shared runc root is of this node: its
// state names the bundle, which lies below the node's folder.
func (n *node) ownsRuncState(path string) bool {
	data, err := os.ReadFile(filepath.Join(path, "state.json"))
	return err == nil && strings.Contains(string(data), n.dir+"/")
}
