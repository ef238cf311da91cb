package kubernetes

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// containerID is containerd's of a pod's container.
func containerID(t *testing.T, pod *corev1.Pod, container string) string {
	t.Helper()
	for _, s := range pod.Status.ContainerStatuses {
		if id, ok := strings.CutPrefix(s.ContainerID, "containerd://"); ok && s.Name == container {
			return id
		}
	}
	t.Fatalf("pod %s has no container %s: %+v", pod.Name, container, pod.Status.ContainerStatuses)
	return ""
}

// pid is that of a container's first process.
func (w *world) pid(t *testing.T, pod *corev1.Pod, container string) int {
	t.Helper()
	n := w.n.In(t)
	c, err := n.Client().LoadContainer(n.Context(), containerID(t, pod, container))
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Task(n.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return int(task.Pid())
}

// cgroupOf is a process's cgroup in the hierarchy of a controller, or the one of cgroup v2.
func (w *world) cgroupOf(t *testing.T, pid int, controller string) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	var unified string
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if strings.Contains(","+fields[1]+",", ","+controller+",") {
			return fields[2]
		}
		if fields[1] == "" {
			unified = fields[2]
		}
	}
	return unified
}

func (w *world) limit(t *testing.T, cgroup string) string {
	t.Helper()
	for _, file := range []string{"/sys/fs/cgroup/memory" + cgroup + "/memory.limit_in_bytes",
		"/sys/fs/cgroup" + cgroup + "/memory.max"} {
		if data, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	t.Fatalf("no memory limit in %s", cgroup)
	return ""
}

// usage is what the kubelet's stats/summary has of a pod's first container.
func (w *world) usage(t *testing.T, pod string) (memory, cpu uint64) {
	t.Helper()
	var summary struct {
		Pods []struct {
			PodRef     struct{ Name string }
			Containers []struct {
				CPU    struct{ UsageCoreNanoSeconds uint64 }
				Memory struct{ WorkingSetBytes uint64 }
			}
		}
	}
	w.StatsSummary(t, &summary)
	for _, p := range summary.Pods {
		if p.PodRef.Name == pod && len(p.Containers) > 0 {
			return p.Containers[0].Memory.WorkingSetBytes, p.Containers[0].CPU.UsageCoreNanoSeconds
		}
	}
	return 0, 0
}

// countedIn is what the counter of a checkpoint had counted to: its log in the archive.
func countedIn(t *testing.T, archive string) int {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for r := tar.NewReader(f); ; {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			t.Fatalf("%s has no log", archive)
		}
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Clean(hdr.Name) != "container.log" {
			continue
		}
		var log bytes.Buffer
		if _, err := log.ReadFrom(r); err != nil {
			t.Fatal(err)
		}
		var plain strings.Builder
		for line := range strings.Lines(log.String()) {
			if _, text, ok := strings.Cut(line, " F "); ok { // CRI's format
				plain.WriteString(text)
			}
		}
		n := numbers(plain.String())
		return n[len(n)-1]
	}
}

// eventually waits for what offers nothing to wait on.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	deadline := time.After(callTimeout)
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within %v: %s", callTimeout, what)
		}
	}
}
