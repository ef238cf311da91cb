package cri

import (
	"context"
	"errors"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cri-restore/cri-restore/internal/restore"
)

var errInjected = errors.New("injected")

// faults counts the calls of containerd that a request makes, and lets
// something happen in one of them.
type faults struct {
	mu    sync.Mutex
	armed bool
	made  []string           // calls since it was armed
	at    int                // the call in which it happens, from 1
	happn func(string) error // nil: the call fails with errInjected
}

func (f *faults) arm(at int, happens func(string) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed, f.made, f.at, f.happn = true, nil, at, happens
}

func (f *faults) disarm() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.armed = false
	return f.made
}

func (f *faults) call(what string) error {
	f.mu.Lock()
	if !f.armed {
		f.mu.Unlock()
		return nil
	}
	f.made = append(f.made, what)
	now, happens := len(f.made) == f.at, f.happn
	f.mu.Unlock()
	if !now {
		return nil
	}
	if happens == nil {
		return errInjected
	}
	return happens(what)
}

type faultyContainers struct {
	containers.Store
	f *faults
}

func (s faultyContainers) Get(ctx context.Context, id string) (containers.Container, error) {
	if err := s.f.call("get container"); err != nil {
		return containers.Container{}, err
	}
	return s.Store.Get(ctx, id)
}

func (s faultyContainers) Update(ctx context.Context, c containers.Container, fields ...string) (containers.Container,
	error) {
	if err := s.f.call("update container"); err != nil {
		return containers.Container{}, err
	}
	return s.Store.Update(ctx, c, fields...)
}

type faultyLeases struct {
	leases.Manager
	f *faults
}

func (s faultyLeases) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	if err := s.f.call("create lease"); err != nil {
		return leases.Lease{}, err
	}
	return s.Manager.Create(ctx, opts...)
}

func (s faultyLeases) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	if err := s.f.call("delete lease"); err != nil {
		return err
	}
	return s.Manager.Delete(ctx, l, opts...)
}

type faultySnapshotter struct {
	snapshots.Snapshotter
	f *faults
	// mounts, if set, replaces those of views and snapshots.
	mounts func(key string) []mount.Mount
}

func (s *faultySnapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount,
	error) {
	if err := s.f.call("view snapshot"); err != nil {
		return nil, err
	}
	return s.replaced(key)(s.Snapshotter.View(ctx, key, parent, opts...))
}

func (s *faultySnapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	if err := s.f.call("mounts of snapshot"); err != nil {
		return nil, err
	}
	return s.replaced(key)(s.Snapshotter.Mounts(ctx, key))
}

func (s *faultySnapshotter) Remove(ctx context.Context, key string) error {
	if err := s.f.call("remove snapshot"); err != nil {
		return err
	}
	return s.Snapshotter.Remove(ctx, key)
}

func (s *faultySnapshotter) replaced(key string) func([]mount.Mount, error) ([]mount.Mount, error) {
	return func(m []mount.Mount, err error) ([]mount.Mount, error) {
		if err == nil && s.mounts != nil {
			if other := s.mounts(key); other != nil {
				return other, nil
			}
		}
		return m, err
	}
}

type faultyContent struct {
	content.Store
	f *faults
}

func (s faultyContent) ReaderAt(ctx context.Context, desc ocispec.Descriptor) (content.ReaderAt, error) {
	if err := s.f.call("read content"); err != nil {
		return nil, err
	}
	return s.Store.ReaderAt(ctx, desc)
}

// bindViews replaces the mounts of views by one of a directory.
func (w *world) bindViews(dir string) func(string) []mount.Mount {
	return func(key string) []mount.Mount {
		if !strings.HasPrefix(key, restore.SnapshotKey("")) {
			return nil
		}
		return []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}}}
	}
}
