package cri

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/restore"
)

// users knows which containers were made from checkpoints, so that what they use is found without a look at all the
// others. It is no state: it is read from the container store when it is first needed, and every entry is
// looked up there again when it counts.
type users struct {
	store containers.Store

	mu   sync.Mutex
	read bool
	ids  map[string]bool
}

// add remembers a container that was just created.
func (u *users) add(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.put(id)
}

func (u *users) put(id string) {
	if u.ids == nil {
		u.ids = map[string]bool{}
	}
	u.ids[id] = true
}

func (u *users) load(ctx context.Context) error {
	if u.read {
		return nil
	}
	found, err := u.store.List(ctx, fmt.Sprintf("labels.%q", restore.LabelID))
	if err != nil {
		return fmt.Errorf("list restored containers: %w", err)
	}
	for i := range found {
		u.put(found[i].ID)
	}
	u.read = true
	return nil
}

// may reports whether a container whose ID begins so may be one of them. Of an ordinary one it says no, without asking
// anybody.
func (u *users) may(ctx context.Context, prefix string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.load(ctx) != nil {
		return true // whoever asks has to look
	}
	for id := range u.ids {
		if strings.HasPrefix(id, prefix) {
			return true
		}
	}
	return false
}

// images returns the IDs of the checkpoint images of which there are containers, restored or begun anew. Nil if there
// are none.
func (u *users) images(ctx context.Context) (map[string]bool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if err := u.load(ctx); err != nil {
		return nil, err
	}
	var used map[string]bool
	for id := range u.ids {
		c, err := u.store.Get(ctx, id)
		if errdefs.IsNotFound(err) {
			delete(u.ids, id)
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("container %s: %w", id, err)
		}
		if image := restore.ImageID(&c); image != "" {
			if used == nil {
				used = map[string]bool{}
			}
			used[image] = true
		}
	}
	return used, nil
}
