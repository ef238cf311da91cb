package kubernetes

import (
	"strings"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/cri-restore/cri-restore/integration/testimage"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// testKubeletKilled kills the kubelet in the moment in which containerd has made the container: it is created, and
// nobody starts it.
func (w *world) testKubeletKilled(t *testing.T) {
	ck := w.checkpointOf(t, "orphan", w.base, "", counting(""))
	// both images are there, so that nothing takes long
	w.Apply(t, manifest("warm", "", container("counter", ck.image, "")))
	w.WaitPod(t, "warm", "ready", ready)
	n := w.n.In(t)
	envelopes, errs := n.Client().Subscribe(n.Context(), `topic=="/containers/update"`)
	w.Apply(t, manifest("orphan", "", container("counter", ck.image, "")))
	awaitRecord(t, envelopes, errs)
	w.KillKubelet(t)
	w.StartKubelet(t)
	w.WaitPod(t, "orphan", "ready", ready)
	w.requireGoesOn(t, "orphan", "counter", ck.counted)
	for _, event := range w.Events(t, "orphan") {
		if strings.Contains(event, "failed to reserve") {
			t.Errorf("event: %s", event)
		}
	}
	w.delete(t, "orphan")
	w.delete(t, "warm")
}

// awaitRecord waits until the record of a restore is written, the last step of CreateContainer.
func awaitRecord(t *testing.T, envelopes <-chan *events.Envelope, errs <-chan error) {
	t.Helper()
	deadline := time.After(callTimeout)
	for {
		select {
		case e := <-envelopes:
			event, err := typeurl.UnmarshalAny(e.Event)
			if err != nil {
				t.Fatal(err)
			}
			if update, ok := event.(*eventsapi.ContainerUpdate); ok && update.Labels[restore.LabelID] != "" {
				return
			}
		case err := <-errs:
			t.Fatalf("events of containerd: %v", err)
		case <-deadline:
			t.Fatal("no container was created")
		}
	}
}

// testRestarts restarts kubelet and containerd below a restored container, and then the container.
func (w *world) testRestarts(t *testing.T) {
	ck := w.checkpointOf(t, "restarts", w.base, "", counting(""))
	pod := w.runs(t, "restarts", manifest("restarts", "", container("counter", ck.image, "")), ck.counted)
	pid := w.pid(t, pod, "counter")
	for restarts, restart := range map[string]func(){
		"kubelet":    func() { w.ReconfigureKubelet(t, nil) },
		"containerd": func() { w.n.In(t).Restart() },
		"both":       func() { w.StopKubelet(t); n := w.n.In(t); n.Kill(); n.Start(); w.StartKubelet(t) },
	} {
		restart()
		pod = w.WaitPod(t, "restarts", "ready after a restart of "+restarts, ready)
		if got := w.pid(t, pod, "counter"); got != pid {
			t.Fatalf("after a restart of %s the process is %d, was %d", restarts, got, pid)
		}
		count := pod.Status.ContainerStatuses[0].RestartCount
		w.kill(t, pod, "counter")
		pod = w.WaitPod(t, "restarts", "its container restarted after a restart of "+restarts, func(p *corev1.Pod) bool {
			return ready(p) && p.Status.ContainerStatuses[0].RestartCount == count+1
		})
		w.requireGoesOn(t, "restarts", "counter", ck.counted)
		pid = w.pid(t, pod, "counter")
	}
	w.delete(t, "restarts")
}

// testSlowRegistry has a base image that takes longer than the kubelet waits for CreateContainer.
func (w *world) testSlowRegistry(t *testing.T) {
	base := w.pushBase(t, "slow/base", testimage.Options{})
	ck := w.checkpointOf(t, "slow", base, "", counting(""))
	registry := w.n.Registry()
	w.ReconfigureKubelet(t, func(config map[string]any) { config["runtimeRequestTimeout"] = "10s" })
	defer w.ReconfigureKubelet(t, nil)
	defer registry.Delay("/v2/slow/base/blobs", 0)
	registry.Delay("/v2/slow/base/blobs", 15*time.Second)

	t.Run("pulled with the checkpoint image", func(t *testing.T) {
		w.forget(t, base, ck.image)
		w.runs(t, "slow", manifest("slow", "", container("counter", ck.image, "")), ck.counted)
		w.requireQuiet(t, "slow")
		w.delete(t, "slow")
	})
	t.Run("pulled by CreateContainer", func(t *testing.T) {
		// The node has the checkpoint image, and has lost its base, which it can have without credentials.
		w.forgetBase(t, base)
		registry.RequireAuth("", "")
		defer registry.RequireAuth(user, password)
		w.runs(t, "slow", manifest("slow", "", container("counter", ck.image, ", imagePullPolicy: IfNotPresent")), ck.counted)
		w.event(t, "slow", "Warning Failed: ", "context deadline exceeded")
		w.requireQuiet(t, "slow")
		w.delete(t, "slow")
	})
}

// requireQuiet fails the test if a retry of the kubelet found the name of the container taken.
func (w *world) requireQuiet(t *testing.T, pod string) {
	t.Helper()
	for _, event := range w.Events(t, pod) {
		if strings.Contains(event, "failed to reserve") || strings.Contains(event, "is reserved for") {
			t.Errorf("event: %s", event)
		}
	}
}

// testDeletedInMidRestore deletes a pod while its container waits for the base image.
func (w *world) testDeletedInMidRestore(t *testing.T) {
	base := w.pushBase(t, "held/base", testimage.Options{})
	ck := w.checkpointOf(t, "held", base, "", counting(""))
	text := manifest("held", "", container("counter", ck.image, ", imagePullPolicy: IfNotPresent"))
	w.runs(t, "held", text, ck.counted) // brings the checkpoint image
	w.delete(t, "held")
	w.forgetBase(t, base)
	registry := w.n.Registry()
	registry.RequireAuth("", "")
	defer registry.RequireAuth(user, password)
	before := w.n.Inventory(t)
	release := registry.Hold("/v2/held/base/blobs")
	defer release()
	w.Apply(t, text)
	eventually(t, "the base image is being "+
		"pulled", func() bool { return len(registry.Requests("/v2/held/base/manifests/sha256")) > 0 })
	w.Kubectl(t, "delete", "pod", "held", "--wait=false")
	release()
	w.Kubectl(t, "wait", "pod/held", "--for=delete", "--timeout=90s")
	eventually(t, "nothing of the pod is left", func() bool {
		w.forgetBase(t, base) // its pull may have gone on
		left := w.n.Inventory(t).Diff(before)
		t.Logf("left: %s", strings.Join(left, "; "))
		return len(left) == 0
	})
	w.runs(t, "held", text, ck.counted)
	w.delete(t, "held")
}

// testImageGC has the kubelet collect all images that it thinks nobody uses.
func (w *world) testImageGC(t *testing.T) {
	ck := w.checkpointOf(t, "collected", w.base, "", counting(""))
	unused := w.pushBase(t, "unused/base", testimage.Options{})
	n := w.n.In(t)
	n.PullAs(unused, user, password)
	pod := w.runs(t, "collected", manifest("collected", "",
		container("counter", ck.image, ", imagePullPolicy: IfNotPresent")), ck.counted)
	collect := func(config map[string]any) {
		// By age, which the kubelet looks at when it starts. The use of the disk it knows only some minutes later.
		config["imageMinimumGCAge"], config["imageMaximumGCAge"] = "1ns", "2ns"
	}
	w.ReconfigureKubelet(t, collect)
	defer w.ReconfigureKubelet(t, nil)
	eventually(t, "an image that nobody uses is collected", func() bool { return n.ImageStatus(unused) == nil })
	if n.ImageStatus(ck.image) == nil {
		t.Error("the checkpoint image of a container that runs was collected")
	}
	if n.ImageStatus(w.digestOf(t, w.base)) == nil {
		t.Error("the base image of a container that runs was collected")
	}
	// Without a registry, the restart needs both.
	registry := w.n.Registry()
	release := registry.Hold("/v2/")
	defer release()
	w.kill(t, pod, "counter")
	w.WaitPod(t, "collected", "restarted", func(p *corev1.Pod) bool {
		return ready(p) &&
			p.Status.ContainerStatuses[0].RestartCount == 1
	})
	w.requireGoesOn(t, "collected", "counter", ck.counted)
	release()
	w.delete(t, "collected")
	eventually(t, "its containers are gone", func() bool {
		return n.Crictl("ps", "-aq", "--label",
			"io.kubernetes.pod.name=collected") == ""
	})
	w.ReconfigureKubelet(t, collect)
	eventually(t, "the checkpoint image is collected when its pod is gone",
		func() bool { return n.ImageStatus(ck.image) == nil })

	// Collected while no container is there, it is pulled again.
	w.runs(t, "collected", manifest("collected", "", container("counter", ck.image, ", imagePullPolicy: IfNotPresent")),
		ck.counted)
	w.delete(t, "collected")
}
