package kubernetes

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/cri-restore/cri-restore/integration/kubernetes/cluster"
)

// plain is a checkpoint that needs nothing of a pod but its service account token.
type plain struct {
	image   string
	counted int
	archive string
}

// checkpoint checkpoints the container "counter" of a pod through the kubelet's API, and returns the archive.
func (w *world) checkpoint(t *testing.T, pod string) string {
	t.Helper()
	archive, err := w.Checkpoint(t, "checkpointer", pod, "counter")
	if err != nil {
		t.Fatal(err)
	}
	return archive
}

// checkpointOf runs a pod from the base image with that script, checkpoints it when it has counted a little, deletes
// it, and pushes the checkpoint image.
func (w *world) checkpointOf(t *testing.T, name, base, spec, text string) plain {
	t.Helper()
	w.Apply(t, manifest(name, spec, container("counter", base, script(text))))
	w.waitCount(t, name, "counter", 5)
	archive := w.checkpoint(t, name)
	w.delete(t, name)
	return plain{image: w.pushCheckpoint(t, archive, "team/"+name+"-ck"), counted: countedIn(t, archive), archive: archive}
}

// runs applies a manifest with one restored container, "counter", and waits until it goes on.
func (w *world) runs(t *testing.T, name, manifest string, counted int) *corev1.Pod {
	t.Helper()
	w.Apply(t, manifest)
	pod := w.WaitPod(t, name, "ready", ready)
	w.requireGoesOn(t, name, "counter", counted)
	return pod
}

// waiting returns the reason and the message with which a container waits.
func waiting(p *corev1.Pod, reason string) (string, bool) {
	for _, s := range p.Status.ContainerStatuses {
		if s.State.Waiting != nil && s.State.Waiting.Reason == reason {
			return s.State.Waiting.Message, true
		}
	}
	return "", false
}

func (w *world) testPullPolicy(t *testing.T) {
	ck := w.checkpointOf(t, "policy", w.base, "", counting(""))
	pod := func(policy string) string {
		return manifest("policy", "", container("counter", ck.image, ", imagePullPolicy: "+policy))
	}
	w.Apply(t, pod("Never"))
	w.WaitPod(t, "policy", "ErrImageNeverPull", func(p *corev1.Pod) bool {
		_,
			ok := waiting(p, "ErrImageNeverPull")
		return ok
	})
	w.delete(t, "policy")
	for _, policy := range []string{"IfNotPresent", "Always", "Never"} {
		p := w.runs(t, "policy", pod(policy), ck.counted)
		w.kill(t, p, "counter")
		w.WaitPod(t, "policy", "restarted with policy "+policy, func(p *corev1.Pod) bool {
			return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 1
		})
		w.requireGoesOn(t, "policy", "counter", ck.counted)
		w.delete(t, "policy")
	}
	// A pod that names no secret, and the image is not there.
	w.forget(t, ck.image)
	w.Apply(t, strings.ReplaceAll(pod("Always"), "imagePullSecrets: [{name: registry}]", "imagePullSecrets: []"))
	w.WaitPod(t, "policy", "ErrImagePull", func(p *corev1.Pod) bool { _, ok := waiting(p, "ErrImagePull"); return ok })
	w.delete(t, "policy")
}

// testUser looks at what the kubelet makes of the user in a checkpoint image's config.
func (w *world) testUser(t *testing.T) {
	ck := w.checkpointOf(t, "user", w.base, "", counting(""))
	nonRoot := "  securityContext: {runAsNonRoot: true}"
	// Root's process is root's image.
	w.Apply(t, manifest("user", nonRoot, container("counter", ck.image, "")))
	w.WaitPod(t, "user", "CreateContainerConfigError", func(p *corev1.Pod) bool {
		message, ok := waiting(p, "CreateContainerConfigError")
		return ok && strings.Contains(message, "image will run as root")
	})
	w.delete(t, "user")
	// That of another user passes the kubelet's check; as the images of CRIU still say root, verification refuses it.
	archive := changeArchive(t, ck.archive, "spec.dump", `"uid":0,"gid":0`, `"uid":1000,"gid":1000`)
	w.Apply(t, manifest("user", nonRoot, container("counter", w.pushCheckpoint(t, archive, "team/user-1000-ck"), "")))
	w.WaitPod(t, "user", "refused for its user by verification", func(p *corev1.Pod) bool {
		message, ok := waiting(p, "CreateContainerError")
		return ok && strings.Contains(message, "uid: found 0, allowed 1000")
	})
	w.delete(t, "user")
}

func (w *world) testTwoContainers(t *testing.T) {
	a := w.checkpointOf(t, "first", w.base, "", counting("echo I am first; "))
	b := w.checkpointOf(t, "second", w.base, "", counting("echo I am second; "))
	w.Apply(t, manifest("both", "", container("a", a.image, ""), container("b", b.image, ""),
		container("c", w.base, script(counting("")))))
	pod := w.WaitPod(t, "both", "ready", ready)
	w.requireGoesOn(t, "both", "a", a.counted)
	w.requireGoesOn(t, "both", "b", b.counted)
	w.kill(t, pod, "b")
	w.WaitPod(t, "both", "its second container restarted", func(p *corev1.Pod) bool {
		restarts := map[string]int32{}
		for _, s := range p.Status.ContainerStatuses {
			restarts[s.Name] = s.RestartCount
		}
		return ready(p) && restarts["a"] == 0 && restarts["b"] == 1 && restarts["c"] == 0
	})
	w.requireGoesOn(t, "both", "b", b.counted)
	for name, says := range map[string]string{"a": "I am first", "b": "I am second"} {
		if log := w.Kubectl(t, "logs", "both", "-c", name); !strings.HasPrefix(log, says) {
			t.Errorf("container %s: its log begins %q", name, log[:min(len(log), 40)])
		}
	}
	w.delete(t, "both")
}

func (w *world) testInitContainer(t *testing.T) {
	spec := "  volumes: [{name: data, emptyDir: {}}]\n"
	mount := ", volumeMounts: [{name: data, mountPath: /data/volume}]"
	init := fmt.Sprintf("  initContainers:\n  - {name: init, image: %q%s%s}\n", w.base, mount,
		script("echo made >/data/volume/file"))
	sidecar := fmt.Sprintf("  - {name: sidecar, restartPolicy: Always, image: %q%s}\n", w.base,
		script("sleep 86400 & wait"))
	w.Apply(t, manifest("init", spec+init, container("counter", w.base, mount+script(counting("")))))
	w.waitCount(t, "init", "counter", 5)
	archive := w.checkpoint(t, "init")
	w.delete(t, "init")
	image := w.pushCheckpoint(t, archive, "team/init-ck")
	pod := w.runs(t, "init", manifest("init", spec+init+sidecar, container("counter", image, mount)),
		countedIn(t, archive))
	if got := w.exec(t, "init", "counter", "cat", "/data/volume/file"); got != "made" {
		t.Errorf("the volume has %q", got)
	}
	for _, s := range pod.Status.InitContainerStatuses {
		if s.RestartCount != 0 {
			t.Errorf("init container %s was restarted: %+v", s.Name, s)
		}
	}
	w.delete(t, "init")
}

// testStaticPod runs a checkpoint from a file on the node. Static pods may name no secret, and have no service account.
func (w *world) testStaticPod(t *testing.T) {
	noToken := "  automountServiceAccountToken: false"
	ck := w.checkpointOf(t, "static", w.base, noToken, counting(""))
	w.n.In(t).PullAs(ck.image, user, password)
	text := strings.ReplaceAll(manifest("static", noToken, container("counter", ck.image, "")),
		"  imagePullSecrets: [{name: registry}]\n", "")
	file := filepath.Join(w.ManifestsDir(), "static.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	name := "static-" + cluster.Node
	pod := w.WaitPod(t, name, "ready", ready)
	w.requireGoesOn(t, name, "counter", ck.counted)
	w.kill(t, pod, "counter")
	w.WaitPod(t, name, "restarted", func(p *corev1.Pod) bool {
		return ready(p) &&
			p.Status.ContainerStatuses[0].RestartCount == 1
	})
	w.requireGoesOn(t, name, "counter", ck.counted)
	// It can be checkpointed too.
	if got := countedIn(t, w.checkpoint(t, name)); got <= ck.counted {
		t.Errorf("its checkpoint is at %d, the first at %d", got, ck.counted)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	w.Kubectl(t, "wait", "pod/"+name, "--for=delete", "--timeout=60s")
}

// testRecreated deletes pods at once and makes them again under the same name.
func (w *world) testRecreated(t *testing.T) {
	ck := w.checkpointOf(t, "again-and-again", w.base, "", counting(""))
	text := manifest("again-and-again", "", container("counter", ck.image, ""))
	for range 4 {
		w.Apply(t, text)
		w.Kubectl(t, "delete", "pod", "again-and-again", "--force", "--grace-period=0")
	}
	w.runs(t, "again-and-again", text, ck.counted)
	for _, event := range w.Events(t, "again-and-again") {
		if strings.Contains(event, "failed to reserve") {
			t.Errorf("event: %s", event)
		}
	}
	w.delete(t, "again-and-again")
}

// testOutOfMemory lets a restored process use more than its limit.
func (w *world) testOutOfMemory(t *testing.T) {
	ck := w.checkpointOf(t, "oom", w.base, "",
		`i=0; while [ ! -e /tmp/eat ]; do i=$((i+1)); echo "count $i"; sleep 0.1; done; exec tail /dev/zero`)
	limit := ", resources: {limits: {memory: 48Mi}}"
	w.runs(t, "oom", manifest("oom", "  restartPolicy: Never", container("counter", ck.image, limit)), ck.counted)
	w.exec(t, "oom", "counter", "touch", "/tmp/eat")
	pod := w.WaitPod(t, "oom", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if s := pod.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "OOMKilled" || s.ExitCode != 137 {
		t.Errorf("it ended as %+v, want OOMKilled and 137", s)
	}
	w.delete(t, "oom")
}

// testLogRotation lets a restored process write more than the kubelet keeps in one file.
func (w *world) testLogRotation(t *testing.T) {
	ck := w.checkpointOf(t, "logs", w.base, "",
		`i=0; while :; do i=$((i+1)); echo "count $i"; if [ -e /tmp/talk ]; then seq 100000 100999; sleep 1; else sleep 0.1; fi; done`)
	pod := w.runs(t, "logs", manifest("logs", "", container("counter", ck.image, "")), ck.counted)
	w.exec(t, "logs", "counter", "touch", "/tmp/talk")
	dir := filepath.Join(w.PodLogsDir(), "default_logs_"+string(pod.UID), "counter")
	var files []string
	eventually(t, "the log is rotated and compressed", func() bool {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		files = nil
		for _, e := range entries {
			files = append(files, e.Name())
		}
		return slices.ContainsFunc(files, func(name string) bool {
			return strings.HasPrefix(name, "0.log.") &&
				strings.HasSuffix(name, ".gz")
		})
	})
	// New lines are in the new file.
	w.waitLog(t, "logs", "counter", func(line string) bool { return line == "100999" })
	w.delete(t, "logs")
}
