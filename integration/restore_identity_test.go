package integration

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/integration/testimage"
)

// TestRestoreIdentity checks that a restored container is the one of the request for
// everybody who looks (point 5): status, list, OCI spec, containerd's own store. Nothing
// of the old container, its pod and its environment is in there.
func TestRestoreIdentity(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	base := pushTestImage(t, n, testimage.Options{Env: []string{"FROM_IMAGE=base"}})
	oldPod := n.Pod(t, harness.PodName("secret-old-pod"), harness.PodNamespace("secret-old-namespace"),
		harness.PodLabel("secret-old-pod-label", "x"), harness.PodAnnotation("secret-old-pod-annotation", "x"))
	old := oldPod.Run("secret-old-name", base, harness.Counting(), harness.Attempt(4), harness.LogPath("secret-old-log"),
		harness.Label("secret-old-label", "x"), harness.Annotation("secret-old-annotation", "x"),
		harness.Env("SECRET_OLD_ENV", "secret-old-value"), harness.WorkingDir("/data"))
	counted := old.WaitCount(5)
	checkpointed := time.Now()
	archive := checkpointOf(t, old)
	oldPod.Remove()
	tag, digest := pushedImageOf(t, n, archive)
	id := n.Pull(tag)

	const uid = "6e7f8a90-0000-4000-8000-000000000001"
	pod := n.Pod(t, harness.PodName("new-pod"), harness.PodNamespace("new-namespace"), harness.PodUID(uid))
	labels := map[string]string{
		"io.kubernetes.container.name": "restored", "io.kubernetes.pod.name": "new-pod",
		"io.kubernetes.pod.namespace": "new-namespace", "io.kubernetes.pod.uid": uid,
	}
	annotations := map[string]string{"io.kubernetes.container.hash": "1a2b3c4d",
		"io.kubernetes.container.restartCount": "2"}
	opts := []harness.ContainerOpt{
		harness.Attempt(2), harness.LogPath("restored/2.log"), harness.Env("FROM_REQUEST", "new"),
		harness.WorkingDir("/data"),
		func(c *runtime.ContainerConfig) {
			c.Labels, c.Annotations = maps.Clone(labels), maps.Clone(annotations)
			c.Image.UserSpecifiedImage = tag
		},
	}
	c := pod.Create("restored", id, opts...)
	created := c.Status()
	if created.GetState() != runtime.ContainerState_CONTAINER_CREATED || created.GetStartedAt() != 0 {
		t.Errorf("after create: state %s, started %d", created.GetState(), created.GetStartedAt())
	}
	c.Start()
	requireContinues(t, c, counted)

	t.Run("status", func(t *testing.T) {
		status := c.Status()
		if m := status.GetMetadata(); m.GetName() != "restored" || m.GetAttempt() != 2 {
			t.Errorf("metadata: %v", m)
		}
		if status.GetState() != runtime.ContainerState_CONTAINER_RUNNING {
			t.Errorf("state: %s", status.GetState())
		}
		if !maps.Equal(status.GetLabels(), labels) {
			t.Errorf("labels: got %v, want %v", status.GetLabels(), labels)
		}
		requireAnnotations(t, status.GetAnnotations(), annotations, map[string]string{
			"checkpoint-image": tag, "checkpoint-digest": digest[strings.Index(digest, "@")+1:],
			"checkpoint-image-id": n.ImageStatus(tag).GetId(),
			"base-image":          n.ImageStatus(base).GetRepoDigests()[0], "producer": "containerd",
		}, checkpointed)
		if want := filepath.Join(pod.Config.GetLogDirectory(), "restored/2.log"); status.GetLogPath() != want {
			t.Errorf("log path: got %q, want %q", status.GetLogPath(), want)
		}
		if status.GetCreatedAt() < checkpointed.UnixNano() || status.GetStartedAt() < status.GetCreatedAt() {
			t.Errorf("created at %d, started at %d, checkpointed at %d", status.GetCreatedAt(), status.GetStartedAt(),
				checkpointed.UnixNano())
		}
		// The image of the container is the one that its root file system is made of.
		if got, want := status.GetImageId(), n.ImageStatus(base).GetId(); got != want {
			t.Errorf("image ID: got %q, want the base image's %q", got, want)
		}
		if got := n.Crictl("ps", "--output", "json"); !strings.Contains(got, c.ID) || !strings.Contains(got, `"restored"`) {
			t.Errorf("crictl ps does not show the container: %s", got)
		}
	})
	t.Run("list", func(t *testing.T) {
		list, err := n.Runtime().ListContainers(n.In(t).Context(), &runtime.ListContainersRequest{
			Filter: &runtime.ContainerFilter{LabelSelector: map[string]string{"io.kubernetes.pod.uid": uid}},
		})
		if err != nil || len(list.GetContainers()) != 1 {
			t.Fatalf("containers of the pod: %v, error %v", list.GetContainers(), err)
		}
		got := list.GetContainers()[0]
		if got.GetId() != c.ID || got.GetPodSandboxId() != pod.ID || got.GetMetadata().GetName() != "restored" ||
			!maps.Equal(got.GetLabels(), labels) {
			t.Errorf("got %v", got)
		}
	})
	t.Run("spec", func(t *testing.T) {
		spec := specOf(t, c)
		for key, want := range map[string]string{
			"io.kubernetes.cri.container-name": "restored", "io.kubernetes.cri.sandbox-id": pod.ID,
			"io.kubernetes.cri.sandbox-name": "new-pod", "io.kubernetes.cri.sandbox-namespace": "new-namespace",
			"io.kubernetes.cri.sandbox-uid": uid,
		} {
			if got := spec.Annotations[key]; got != want {
				t.Errorf("annotation %s: got %q, want %q", key, got, want)
			}
		}
		plugin := filepath.Join(n.Root(), "io.containerd.cri.v1.restore")
		file := spec.Annotations["org.criu.config"]
		if !strings.HasPrefix(file, plugin+"/") || !strings.Contains(readFile(t, file), "manage-cgroups=") {
			t.Errorf("CRIU configuration file %q, want one of the plugin's", file)
		}
		for _, want := range []string{"FROM_IMAGE=base", "FROM_REQUEST=new"} {
			if !slices.Contains(spec.Process.Env, want) {
				t.Errorf("environment: no %s in %v", want, spec.Process.Env)
			}
		}
	})
	t.Run("nothing of the old", func(t *testing.T) {
		var info json.RawMessage
		c.Info(&info)
		status, err := json.Marshal(c.Status())
		if err != nil {
			t.Fatal(err)
		}
		stored, err := n.Client().ContainerService().Get(n.In(t).Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		container, err := json.Marshal(stored)
		if err != nil {
			t.Fatal(err)
		}
		for what, text := range map[string]string{
			"status": string(status), "info": string(info), "containerd's container": string(container),
			"environment in exec": c.Exec("env"),
		} {
			for _, old := range []string{"secret-old", "SECRET_OLD", old.ID, oldPod.ID, oldPod.Config.GetMetadata().GetUid()} {
				if strings.Contains(text, old) {
					t.Errorf("%s has %q: %s", what, old, text)
				}
			}
		}
	})
	t.Run("reserved name", func(t *testing.T) {
		// A second container of the same name is refused as with any other.
		before := n.Inventory(t)
		_, err := pod.TryCreate("restored", id, opts...)
		if err == nil || !strings.Contains(err.Error(), "reserved") {
			t.Errorf("a second container of the same name and attempt: error %v", err)
		}
		n.RequireNoLeak(t, before)
		requireContinues(t, c, counted)
	})
}

// requireAnnotations wants the request's annotations and the plugin's, and no other.
func requireAnnotations(t *testing.T, got, request, restore map[string]string, checkpointed time.Time) {
	t.Helper()
	got = maps.Clone(got)
	for key, want := range request {
		if got[key] != want {
			t.Errorf("annotation %s: got %q, want %q", key, got[key], want)
		}
		delete(got, key)
	}
	for key, want := range restore {
		key = "org.criu.restore/" + key
		if got[key] != want {
			t.Errorf("annotation %s: got %q, want %q", key, got[key], want)
		}
		delete(got, key)
	}
	// The first is a random UUID, the second has seconds.
	at, err := time.Parse(time.RFC3339, got["org.criu.restore/checkpointed-at"])
	if err != nil || at.Before(checkpointed.Add(-time.Second)) || at.After(time.Now()) {
		t.Errorf("annotation checkpointed-at: %q, error %v, want a moment after %s", got["org.criu.restore/checkpointed-at"],
			err, checkpointed)
	}
	if len(got["org.criu.restore/id"]) != 36 {
		t.Errorf("annotation id: %q", got["org.criu.restore/id"])
	}
	delete(got, "org.criu.restore/checkpointed-at")
	delete(got, "org.criu.restore/id")
	if len(got) > 0 {
		t.Errorf("further annotations: %v", got)
	}
}

func specOf(t testing.TB, c *harness.Container) *specs.Spec {
	t.Helper()
	var info struct {
		RuntimeSpec *specs.Spec `json:"runtimeSpec"`
	}
	c.Info(&info)
	if info.RuntimeSpec == nil || info.RuntimeSpec.Process == nil || info.RuntimeSpec.Linux == nil {
		t.Fatalf("container %s has no OCI spec", c.ID)
	}
	return info.RuntimeSpec
}

// TestRestoreEvents takes a restored container through its life and wants the CRI events of
// an ordinary one (point 5).
func TestRestoreEvents(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	name := imageOf(t, n, archive)
	pod := n.Pod(t)

	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	stream, err := n.Runtime().GetContainerEvents(ctx, &runtime.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	events := make(chan *runtime.ContainerEventResponse, 100)
	go func() {
		defer close(events)
		for {
			event, err := stream.Recv()
			if errors.Is(err, io.EOF) || ctx.Err() != nil {
				return
			}
			if err != nil {
				t.Errorf("container events: %v", err)
				return
			}
			events <- event
		}
	}()
	next := func(id string, want runtime.ContainerEventType) *runtime.ContainerEventResponse {
		t.Helper()
		for event := range events {
			if event.GetContainerId() != id {
				continue
			}
			if event.GetContainerEventType() != want {
				t.Fatalf("got %s, want %s", event.GetContainerEventType(), want)
			}
			return event
		}
		t.Fatalf("no event %s", want)
		return nil
	}
	// The stream has begun when an event has come.
	probe := pod.Create("probe", n.Image(harness.Busybox), harness.Counting())
	next(probe.ID, runtime.ContainerEventType_CONTAINER_CREATED_EVENT)

	c := pod.Create("restored", name)
	created := next(c.ID, runtime.ContainerEventType_CONTAINER_CREATED_EVENT)
	if created.GetPodSandboxStatus().GetId() != pod.ID {
		t.Errorf("the event is of pod %q, want %q", created.GetPodSandboxStatus().GetId(), pod.ID)
	}
	c.Start()
	started := next(c.ID, runtime.ContainerEventType_CONTAINER_STARTED_EVENT)
	if !slices.ContainsFunc(started.GetContainersStatuses(), func(s *runtime.ContainerStatus) bool {
		return s.GetId() == c.ID && s.GetState() == runtime.ContainerState_CONTAINER_RUNNING &&
			s.GetMetadata().GetName() == "restored"
	}) {
		t.Errorf("the statuses of the event do not have the running container: %v", started.GetContainersStatuses())
	}
	requireContinues(t, c, counted)
	c.Stop(0)
	next(c.ID, runtime.ContainerEventType_CONTAINER_STOPPED_EVENT)
	c.Remove()
	next(c.ID, runtime.ContainerEventType_CONTAINER_DELETED_EVENT)
}
