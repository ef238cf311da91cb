package kubernetes

import (
	"bufio"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/restore"
)

// event fails the test unless there is an event about the pod that says all of it.
func (w *world) event(t *testing.T, pod string, says ...string) {
	t.Helper()
	eventually(t, "event: "+strings.Join(says, " ... "), func() bool {
	next:
		for _, event := range w.Events(t, pod) {
			for _, s := range says {
				if !strings.Contains(event, s) {
					continue next
				}
			}
			return true
		}
		return false
	})
}

// freshly waits until a pod's container counts from 1, and returns what CRI shows of it.
func (w *world) freshly(t *testing.T, pod *corev1.Pod) map[string]string {
	t.Helper()
	if log := w.waitCount(t, pod.Name, "counter", 3); numbers(log)[0] != 1 {
		t.Errorf("pod %s: its log begins with %q", pod.Name, log[:min(len(log), 40)])
	}
	n := w.n.In(t)
	status, err := n.Runtime().ContainerStatus(n.Context(), statusRequest(containerID(t, pod, "counter")))
	if err != nil {
		t.Fatal(err)
	}
	return status.GetStatus().GetAnnotations()
}

// testRefused has a pod that does not fit its checkpoint: first nothing runs and the pod says why, then it asks to
// begin anew.
func (w *world) testRefused(t *testing.T) {
	volume := "  volumes: [{name: data, emptyDir: {}}]\n"
	mount := ", volumeMounts: [{name: data, mountPath: /mnt}]"
	w.Apply(t, manifest("refused", volume, container("counter", w.base, mount+script(counting("")))))
	w.waitCount(t, "refused", "counter", 5)
	archive := w.checkpoint(t, "refused")
	w.delete(t, "refused")
	image := w.pushCheckpoint(t, archive, "team/refused-ck")
	const says = `the checkpoint has a volume at "/mnt" and the pod mounts none there`

	w.Apply(t, manifest("refused", "", container("counter", image, script(counting("")))))
	w.WaitPod(t, "refused", "CreateContainerError that says why", func(p *corev1.Pod) bool {
		message, ok := waiting(p, "CreateContainerError")
		return ok && strings.Contains(message, says) && strings.Contains(message, image)
	})
	w.event(t, "refused", "Warning Failed: ", says)
	w.delete(t, "refused")

	t.Run("start fresh", func(t *testing.T) {
		before := w.metric(t, "containerd_cri_restore_fresh_starts_total")
		w.Apply(t, manifest("refused", `annotations: {org.criu.restore/on-failure: start-fresh}`+"\n",
			container("counter", image, script(counting("")))))
		pod := w.WaitPod(t, "refused", "ready", ready)
		a := w.freshly(t, pod)
		if !strings.Contains(a[restore.AnnotationFresh], says) || a[restore.AnnotationImage] != image ||
			a[restore.AnnotationID] != "" {
			t.Errorf("annotations %v", a)
		}
		if got := w.metric(t, "containerd_cri_restore_fresh_starts_total"); got <= before {
			t.Errorf("the metric went from %v to %v", before, got)
		}
		w.kill(t, pod, "counter")
		pod = w.WaitPod(t, "refused", "restarted", func(p *corev1.Pod) bool {
			return ready(p) &&
				p.Status.ContainerStatuses[0].RestartCount == 1
		})
		w.freshly(t, pod)
		w.delete(t, "refused")
	})
	t.Run("an annotation that there is not", func(t *testing.T) {
		w.Apply(t, manifest("refused", `annotations: {org.criu.restore/on-failure: try-harder}`+"\n",
			container("counter", image, "")))
		w.WaitPod(t, "refused", "CreateContainerError", func(p *corev1.Pod) bool {
			message, ok := waiting(p, "CreateContainerError")
			return ok && strings.Contains(message, `"try-harder" is none of "fail", "start-fresh"`)
		})
		w.delete(t, "refused")
	})
}

// testStartFails has a checkpoint that only CRIU can find to be of no use here: another container of the pod has the
// port on which it listens.
func (w *world) testStartFails(t *testing.T) {
	ck := w.checkpointOf(t, "bound", w.base, "", counting(`httpd -p 8081 -h /etc; `))
	const says = "Can't bind inet socket"
	// The others begin when it listens.
	has := fmt.Sprintf("  initContainers:\n  - {name: first, restartPolicy: Always, image: %q%s, %s}\n", w.base,
		script("exec httpd -f -p 8081 -h /etc"), "startupProbe: {tcpSocket: {port: 8081}, periodSeconds: 1}")
	w.Apply(t, manifest("bound", "  restartPolicy: Never\n"+has, container("counter", ck.image, "")))
	pod := w.WaitPod(t, "bound", "failed", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if s := pod.Status.ContainerStatuses[0].State.Terminated; s == nil || s.Reason != "StartError" ||
		!strings.Contains(s.Message, says) || !strings.Contains(s.Message, ck.image) {
		t.Errorf("it ended as %+v, want StartError with %q", s, says)
	}
	w.event(t, "bound", "Warning Failed: ", says)
	w.delete(t, "bound")

	// The container of the next try begins anew.
	w.Apply(t, manifest("bound", `annotations: {org.criu.restore/on-failure: start-fresh}`+"\n"+has,
		container("counter", ck.image, script(counting("")))))
	pod = w.WaitPod(t, "bound", "ready", ready)
	if got := pod.Status.ContainerStatuses[0].RestartCount; got != 1 {
		t.Errorf("%d restarts, want one", got)
	}
	if a := w.freshly(t, pod); !strings.Contains(a[restore.AnnotationFresh], says) {
		t.Errorf("annotations %v", a)
	}
	w.kill(t, pod, "counter")
	pod = w.WaitPod(t, "bound", "restarted once more",
		func(p *corev1.Pod) bool { return ready(p) && p.Status.ContainerStatuses[0].RestartCount == 2 })
	w.freshly(t, pod)
	w.delete(t, "bound")
}

// metric is the sum of a metric's series on containerd's metrics address.
func (w *world) metric(t *testing.T, name string) float64 {
	t.Helper()
	resp, err := http.Get("http://" + w.metricsAddress + "/v1/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var sum float64
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		if rest, ok := strings.CutPrefix(lines.Text(), name); ok && rest != "" && (rest[0] == '{' || rest[0] == ' ') {
			fields := strings.Fields(rest)
			value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
			if err != nil {
				t.Fatalf("metric %q: %v", lines.Text(), err)
			}
			sum += value
		}
	}
	return sum
}

func statusRequest(id string) *runtime.ContainerStatusRequest {
	return &runtime.ContainerStatusRequest{ContainerId: id}
}
