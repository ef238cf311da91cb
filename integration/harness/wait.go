package harness

import (
	"context"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	pollPause = 20 * time.Millisecond
	// settleTimeout bounds the wait for what containerd does after it has answered:
	// CRI's view of an exit, the end of a shim, garbage collection.
	settleTimeout = 10 * time.Second
)

// WaitExited waits for the container's exit and returns its status, with exit
// code and reason. It fails the test after 30 seconds.
func (c *Container) WaitExited() *runtime.ContainerStatus {
	c.t.Helper()
	ctx, cancel := deadlineContext(c.t, waitTimeout)
	defer cancel()
	for {
		// The wait can fail in the moment when CRI deletes the task, and when containerd
		// restarts: CRI's status, which follows by an event, has the last word.
		err := c.waitTask(ctx)
		var status *runtime.ContainerStatus
		exited := settle(ctx, func() bool {
			status = c.Status()
			return status.GetState() == runtime.ContainerState_CONTAINER_EXITED
		})
		if exited {
			return status
		}
		if err == nil || ctx.Err() != nil {
			c.t.Fatalf("harness: container %s has not exited, CRI says %s; waiting for its process: %v", c.ID,
				status.GetState(), err)
		}
	}
}

// waitTask returns when the container's process has ended.
func (c *Container) waitTask(ctx context.Context) error {
	ctx = namespaces.WithNamespace(ctx, k8sNamespace)
	container, err := c.n.Client().LoadContainer(ctx, c.ID)
	if err != nil {
		return err
	}
	task, err := container.Task(ctx, nil)
	if errdefs.IsNotFound(err) {
		return nil // CRI deletes the task when it learns of the exit
	} else if err != nil {
		return err
	}
	exit, err := task.Wait(ctx)
	if err != nil {
		return err
	}
	if err := (<-exit).Error(); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// settle calls done until it is true or settleTimeout has passed. It is for the
// few moments where containerd offers nothing to wait on.
func settle(ctx context.Context, done func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, settleTimeout)
	defer cancel()
	tick := time.NewTicker(pollPause)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return done()
		}
	}
	return true
}
