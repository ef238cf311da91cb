package kubernetes

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/cri-restore/cri-restore/integration/testimage"
)

// volumes are a pod's with everything that says who it is.
const volumes = `  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: config, configMap: {name: settings}}
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}, {path: name, fieldRef: {fieldPath: metadata.name}}]}}`

// mounts, probes and limits of the counter.
const counter = `, volumeMounts: [{name: scratch, mountPath: /scratch}, {name: config, mountPath: /config}, {name: info, mountPath: /info}]` +
	`, env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]` +
	`, resources: {limits: {memory: 64Mi, cpu: 500m}, requests: {cpu: 10m}}` +
	`, readinessProbe: {httpGet: {port: 8080, path: /base}, periodSeconds: 1}` +
	`, livenessProbe: {exec: {command: [test, "!", -e, /scratch/dead]}, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 5}`

// testLifecycle goes the whole way of a checkpoint: from a pod to a registry that wants credentials, and to another
// pod, which is killed, restarted, used, checkpointed again and deleted.
func (w *world) testLifecycle(t *testing.T) {
	w.base = w.pushBase(t, "team/base", testimage.Options{})
	w.Kubectl(t, "create", "configmap", "settings", "--from-literal=color=red")
	w.Apply(t, manifest("counter", volumes, container("counter", w.base,
		counter+script(counting("httpd -p 8080 -h /etc; ")))))
	w.WaitPod(t, "counter", "ready", ready)
	w.waitCount(t, "counter", "counter", 10)
	oldToken := claims(t, w.exec(t, "counter", "counter", "cat", token))

	// Whoever may not is refused, by the API server's word.
	if _, err := w.Checkpoint(t, "nobody", "counter", "counter"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("checkpoint by nobody: got %v, want 403", err)
	}
	archive := w.checkpoint(t, "counter")
	w.archive = archive
	w.counted = countedIn(t, archive)
	w.requireGoesOn(t, "counter", "counter", w.counted) // the old one
	w.image = w.pushCheckpoint(t, archive, "team/counter-ck")
	w.delete(t, "counter")
	w.forget(t, w.base)
	if w.n.In(t).ImageStatus(w.image) != nil {
		t.Fatal("the checkpoint image is on the node")
	}

	w.Kubectl(t, "delete", "configmap", "settings")
	w.Kubectl(t, "create", "configmap", "settings", "--from-literal=color=blue")
	w.Apply(t, manifest("restored", volumes, container("counter", w.image, counter)))
	pod := w.WaitPod(t, "restored", "ready", ready)
	w.requireGoesOn(t, "restored", "counter", w.counted)

	t.Run("identity", func(t *testing.T) {
		in := func(command ...string) string { return w.exec(t, "restored", "counter", command...) }
		if got := in("cat", "/etc/hostname") + in("hostname"); got != "restoredrestored" {
			t.Errorf("host name: %q", got)
		}
		if got := in("cat", "/etc/hosts"); !strings.Contains(got, pod.Status.PodIP+"\trestored") ||
			strings.Contains(got, "counter") {
			t.Errorf("/etc/hosts: %s", got)
		}
		if got := in("cat", "/etc/resolv.conf"); !strings.Contains(got, "nameserver 192.0.2.53") {
			t.Errorf("/etc/resolv.conf: %s", got)
		}
		// The old process sees the same files.
		if got := in("cat", "/proc/1/root/etc/hostname"); got != "restored" {
			t.Errorf("/etc/hostname of the process: %q", got)
		}
		newToken := claims(t, in("cat", "/proc/1/root"+token))
		if newToken.Kubernetes.Pod.UID != string(pod.UID) || newToken.Kubernetes.Pod.Name != "restored" ||
			oldToken.Kubernetes.Pod.UID == string(pod.UID) {
			t.Errorf("service account token: of %+v, before of %+v, the pod is %s", newToken.Kubernetes.Pod,
				oldToken.Kubernetes.Pod, pod.UID)
		}
		if got := in("cat", "/proc/1/root/info/name") + " " + in("cat", "/info/labels"); got != `restored app="restored"` {
			t.Errorf("downward API: %q", got)
		}
		if got := in("cat", "/proc/1/root/config/color"); got != "blue" {
			t.Errorf("config map: %q", got)
		}
		// What changes later arrives too.
		w.Kubectl(t, "label", "pod", "restored", "more=yes")
		eventually(t, "the new label is in the volume",
			func() bool { return strings.Contains(in("cat", "/proc/1/root/info/labels"), `more="yes"`) })
		if got := in("sh", "-c", "echo $POD"); got != "restored" {
			t.Errorf("exec has POD=%q", got)
		}
	})
	t.Run("limits", func(t *testing.T) {
		cgroup := w.cgroupOf(t, w.pid(t, pod, "counter"), "memory")
		if !strings.HasPrefix(cgroup, w.n.CgroupRoot()+"/kubepods/") ||
			!strings.Contains(cgroup, "/pod"+string(pod.UID)+"/") {
			t.Errorf("cgroup %s of pod %s", cgroup, pod.UID)
		}
		if got := w.limit(t, cgroup); got != "67108864" {
			t.Errorf("memory limit: %s", got)
		}
	})
	t.Run("stats", func(t *testing.T) {
		eventually(t, "stats/summary has CPU and memory", func() bool {
			memory, cpu := w.usage(t, "restored")
			return memory > 0 && cpu > 0
		})
	})
	t.Run("kill -9", func(t *testing.T) {
		for restarts := int32(1); restarts <= 2; restarts++ {
			w.kill(t, pod, "counter")
			pod = w.WaitPod(t, "restored", "restarted and ready", func(p *corev1.Pod) bool {
				return ready(p) && p.Status.ContainerStatuses[0].RestartCount == restarts
			})
			if s := pod.Status.ContainerStatuses[0].LastTerminationState.Terminated; s == nil || s.ExitCode != 137 {
				t.Errorf("restart %d: it ended as %+v, want exit code 137", restarts, s)
			}
			w.requireGoesOn(t, "restored", "counter", w.counted)
		}
	})
	t.Run("liveness", func(t *testing.T) {
		w.exec(t, "restored", "counter", "touch", "/scratch/dead")
		seen := w.WaitPod(t, "restored", "killed by its liveness probe", func(p *corev1.Pod) bool {
			return p.Status.ContainerStatuses[0].RestartCount >= 3 &&
				p.Status.ContainerStatuses[0].LastTerminationState.Terminated != nil
		})
		if s := seen.Status.ContainerStatuses[0].LastTerminationState.Terminated; s.ExitCode != 7 ||
			!strings.HasPrefix(s.Message, "bye at ") {
			t.Errorf("it ended as %+v, want exit code 7 and its termination message", s)
		}
		// From outside: the container is killed again and again meanwhile.
		if err := os.Remove(filepath.Join(w.KubeletDir(), "pods", string(pod.UID),
			"volumes/kubernetes.io~empty-dir/scratch/dead")); err != nil {
			t.Fatal(err)
		}
		pod = w.WaitPod(t, "restored", "ready", ready)
	})
	t.Run("again", func(t *testing.T) {
		w.waitCount(t, "restored", "counter", w.counted+10)
		archive := w.checkpoint(t, "restored")
		counted := countedIn(t, archive)
		if counted <= w.counted {
			t.Errorf("the second checkpoint is at %d, the first at %d", counted, w.counted)
		}
		image := w.pushCheckpoint(t, archive, "team/counter-ck2")
		w.Apply(t, manifest("again", volumes, container("counter", image, counter)))
		w.WaitPod(t, "again", "ready", ready)
		w.requireGoesOn(t, "again", "counter", counted)
	})
	t.Run("graceful deletion", func(t *testing.T) {
		stopped := make(chan string, 1)
		go func() {
			log, _ := w.FollowLog(t.Context(), "again", "counter",
				func(line string) bool { return strings.HasPrefix(line, "stopped at ") })
			stopped <- log
		}()
		w.waitCount(t, "again", "counter", 0) // the log can be followed
		w.delete(t, "again")
		if log := <-stopped; !strings.Contains(log, "stopped at ") {
			t.Errorf("the process was not asked to end; its log ends %q", last(log, 3))
		}
	})
	w.delete(t, "restored")
}

// token is the service account's in a container.
const token = "/var/run/secrets/kubernetes.io/serviceaccount/token"

type tokenClaims struct {
	Kubernetes struct {
		Pod struct{ Name, UID string }
	} `json:"kubernetes.io"`
}

func claims(t *testing.T, jwt string) tokenClaims {
	t.Helper()
	var c tokenClaims
	parts := strings.Split(jwt, ".")
	if len(parts) != 3 {
		t.Fatalf("no token: %q", jwt)
	}
	data, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	if err != nil {
		t.Fatalf("token: %v", err)
	}
	return c
}

// ready is true of a pod all of whose containers are.
func ready(p *corev1.Pod) bool {
	return p.DeletionTimestamp == nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// kill kills a container's process from outside, as the kernel might.
func (w *world) kill(t *testing.T, pod *corev1.Pod, container string) {
	t.Helper()
	if err := syscall.Kill(w.pid(t, pod, container), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}
