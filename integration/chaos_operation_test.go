package integration

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// chaosOperation is what is going on when a fault strikes.
type chaosOperation struct {
	name   string
	source func(w *chaosWorld) string // of the container; nil if there is none
	lazy   bool
	// state is how far the container is brought before: nothing, "created", "running" or "draining".
	state string
	run   func(ctx context.Context, w *chaosWorld, pod *harness.Pod, c *harness.Container) error
	// faults are those that make sense.
	faults []string
	// pulls is set for what leaves a pull's leases when containerd is killed.
	pulls bool
	// starts is set for what may still be starting when the pod is stopped.
	starts bool
	// makes is what there may be afterwards: an archive or an image.
	makes string
	// takes is how long it takes undisturbed, at first a guess.
	takes time.Duration
}

func fromArchive(w *chaosWorld) string  { return w.archive }
func fromChaosImage(*chaosWorld) string { return chaosImage }

func (w *chaosWorld) dumpFile() string { return filepath.Join(w.n.Dir(), "dumps", "dump.tar") }

// chaosOperations are all of them.
func chaosOperations() []*chaosOperation {
	create := func(ctx context.Context, w *chaosWorld, pod *harness.Pod, source string) error {
		_, err := w.n.Runtime().CreateContainer(ctx, &runtime.CreateContainerRequest{PodSandboxId: pod.ID,
			SandboxConfig: pod.Config, Config: w.config(source)})
		return err
	}
	start := func(ctx context.Context, _ *chaosWorld, _ *harness.Pod, c *harness.Container) error {
		return startIn(ctx, c)
	}
	stop := func(ctx context.Context, w *chaosWorld, _ *harness.Pod, c *harness.Container) error {
		_, err := w.n.Runtime().StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ID, Timeout: 1})
		return err
	}
	remove := func(ctx context.Context, w *chaosWorld, _ *harness.Pod, c *harness.Container) error {
		_, err := w.n.Runtime().RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: c.ID})
		return err
	}
	checkpoint := func(location func(*chaosWorld) string) func(context.Context, *chaosWorld, *harness.Pod,
		*harness.Container) error {
		return func(ctx context.Context, w *chaosWorld, _ *harness.Pod, c *harness.Container) error {
			_, err := w.n.Runtime().CheckpointContainer(ctx,
				&runtime.CheckpointContainerRequest{ContainerId: c.ID, Location: location(w)})
			return err
		}
	}
	callers := []string{"containerd", "containerd", "cancel", "deadline"}
	with := func(more ...string) []string { return append(append([]string{}, callers...), more...) }
	restoring := with("shim", "runc", "criu", "pod", "image")
	dumping := with("shim", "runc", "criu", "pod")
	lazily := with("shim", "runc", "criu", "page server", "supervisor", "pod")
	return []*chaosOperation{
		{
			name: "create from archive", source: fromArchive, faults: with("shim", "pod"), takes: 500 * time.Millisecond,
			run: func(ctx context.Context, w *chaosWorld, pod *harness.Pod, _ *harness.Container) error {
				return create(ctx, w, pod, w.archive)
			},
		},
		{
			name: "create from image", source: fromChaosImage, faults: with("shim", "pod", "image"),
			takes: 300 * time.Millisecond,
			run: func(ctx context.Context, w *chaosWorld, pod *harness.Pod, _ *harness.Container) error {
				return create(ctx, w, pod, chaosImage)
			},
		},
		{name: "start from archive", source: fromArchive, state: "created", faults: restoring, starts: true,
			takes: 400 * time.Millisecond, run: start},
		{name: "start from image", source: fromChaosImage, state: "created", faults: restoring, starts: true,
			takes: 400 * time.Millisecond, run: start},
		{name: "lazy start", source: fromChaosImage, lazy: true, state: "created", faults: lazily, starts: true,
			takes: 400 * time.Millisecond, run: start},
		{
			name: "drain", source: fromChaosImage, lazy: true, state: "draining",
			faults: []string{"containerd", "shim", "page server", "supervisor", "process", "pod"},
			takes:  700 * time.Millisecond, run: drained,
		},
		{
			name: "drain from archive", source: fromArchive, lazy: true, state: "draining",
			faults: []string{"containerd", "shim", "page server", "supervisor", "process", "pod"},
			takes:  700 * time.Millisecond, run: drained,
		},
		{name: "stop", source: fromArchive, state: "running", faults: with("shim", "runc", "process"), takes: time.Second,
			run: stop},
		{name: "stop while draining", source: fromChaosImage, lazy: true, state: "draining",
			faults: with("shim", "page server", "supervisor"), takes: time.Second, run: stop},
		{name: "remove created", source: fromArchive, state: "created", faults: with("shim"), takes: 100 * time.Millisecond,
			run: remove},
		{name: "remove running", source: fromChaosImage, state: "running", faults: with("shim", "runc", "process"),
			takes: 300 * time.Millisecond, run: remove},
		{name: "remove while draining", source: fromArchive, lazy: true, state: "draining",
			faults: with("shim", "page server", "supervisor"), takes: 300 * time.Millisecond, run: remove},
		{
			name: "pull", faults: with("registry"), pulls: true, takes: time.Second,
			run: func(ctx context.Context, w *chaosWorld, _ *harness.Pod, _ *harness.Container) error {
				_, err := w.n.Images().PullImage(ctx, &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: w.pulled}})
				return err
			},
		},
		{
			name: "checkpoint to archive", source: fromArchive, state: "running", faults: dumping, makes: "archive",
			takes: 600 * time.Millisecond,
			run:   checkpoint((*chaosWorld).dumpFile),
		},
		{
			name: "checkpoint to image", source: fromChaosImage, state: "running", faults: dumping, makes: "image",
			takes: 900 * time.Millisecond,
			run:   checkpoint(func(*chaosWorld) string { return "oci-image:" + chaosDump }),
		},
	}
}

// drained returns when a lazily restored container has all of its memory, or none of its processes.
func drained(ctx context.Context, _ *chaosWorld, _ *harness.Pod, c *harness.Container) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for supervisorOf(c) != 0 {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// prepare brings a container so far as the operation wants it.
func (op *chaosOperation) prepare(t *testing.T, w *chaosWorld, pod *harness.Pod) *harness.Container {
	t.Helper()
	if op.state == "" {
		return nil
	}
	source := op.source(w)
	resp, err := w.n.Runtime().CreateContainer(w.n.In(t).Context(),
		&runtime.CreateContainerRequest{PodSandboxId: pod.ID, SandboxConfig: pod.Config, Config: w.config(source)})
	if err != nil {
		t.Fatal(err)
	}
	c := w.container(t, pod, resp.GetContainerId(), source)
	if op.state == "created" {
		return c
	}
	c.Start()
	if op.state == "draining" {
		percent(t, c, 5)
	}
	return c
}

// made takes away what the operation has made, if it has, after a look at it.
func (op *chaosOperation) made(t *testing.T, w *chaosWorld) {
	t.Helper()
	n := w.n.In(t)
	switch op.makes {
	case "archive":
		file := w.dumpFile()
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return
		}
		w.requireRestores(t, file, false, w.counted)
		if err := os.Remove(file); err != nil {
			t.Error(err)
		}
	case "image":
		if _, err := n.Client().ImageService().Get(n.Context(), chaosDump); err != nil {
			return
		}
		w.requireRestores(t, chaosDump, false, w.counted)
		n.RemoveImage(chaosDump)
	}
	if op.pulls {
		if img := n.ImageStatus(w.pulled); img != nil {
			w.requireRestores(t, w.pulled, false, w.counted)
			n.RemoveImage(w.pulled)
		}
	}
}
