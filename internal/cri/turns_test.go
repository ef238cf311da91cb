package cri

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/restore"
	"github.com/cri-restore/cri-restore/internal/turn"
)

// A namespace whose restores hold what they may have waits, another one does not.
func TestCreateWaitsForItsOwnNamespace(t *testing.T) {
	w := newWorld(t)
	w.node.Restores.Turns = turn.New(2)
	r := w.request(sources["archive"](w))
	slow, err := w.node.Restores.Turns.Take(w.ctx, "default")
	check(t, err)
	ctx, cancel := context.WithTimeout(w.ctx, time.Second)
	defer cancel()
	before := w.inventory()
	if _, err := w.runtime.CreateContainer(ctx, r); !errdefs.IsResourceExhausted(err) ||
		!strings.Contains(err.Error(), `"default" has 1`) {
		t.Errorf("got %v", err)
	}
	w.unchanged(before)
	const other = "07fe21"
	w.inner.sandboxes[other] = &runtime.PodSandboxStatus{Id: other,
		Metadata: &runtime.PodSandboxMetadata{Namespace: "other"}}
	w.sandboxContainer(other, restore.RuntimeRunc)
	r.PodSandboxId = other
	resp, err := w.runtime.CreateContainer(w.ctx, r)
	check(t, err)
	w.ready(resp.ContainerId)
	if _, record, err := w.node.Restores.Get(w.ctx, resp.ContainerId); err != nil || record.Namespace != "other" {
		t.Errorf("record %+v, %v", record, err)
	}
	slow.Done()
	r.PodSandboxId = sandbox
	_, err = w.runtime.CreateContainer(w.ctx, r)
	check(t, err)
}
