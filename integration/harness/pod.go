package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodSpec is what a PodOpt may change before the sandbox is created.
type PodSpec struct {
	// Config goes to CRI as it is.
	Config *runtime.PodSandboxConfig
	// Handler is the runtime handler, "" for the default one.
	Handler string
	// CgroupChild is the pod's cgroup parent relative to Node.CgroupRoot.
	CgroupChild string
}

// PodOpt changes a pod before it is created.
type PodOpt func(*PodSpec)

// PodName sets the pod's name; by default it is unique on the node.
func PodName(name string) PodOpt { return func(s *PodSpec) { s.Config.Metadata.Name = name } }

// PodNamespace sets the Kubernetes namespace, "default" by default.
func PodNamespace(ns string) PodOpt { return func(s *PodSpec) { s.Config.Metadata.Namespace = ns } }

// PodUID sets the pod's UID; by default it is random.
func PodUID(uid string) PodOpt { return func(s *PodSpec) { s.Config.Metadata.Uid = uid } }

// PodLabel adds a label.
func PodLabel(key, value string) PodOpt { return func(s *PodSpec) { s.Config.Labels[key] = value } }

// PodAnnotation adds an annotation.
func PodAnnotation(key, value string) PodOpt {
	return func(s *PodSpec) { s.Config.Annotations[key] = value }
}

// PodLogDirectory sets where the logs of the pod's containers go.
func PodLogDirectory(dir string) PodOpt { return func(s *PodSpec) { s.Config.LogDirectory = dir } }

// PodCgroup sets the cgroup parent, relative to Node.CgroupRoot ("pods" by default).
func PodCgroup(child string) PodOpt { return func(s *PodSpec) { s.CgroupChild = child } }

// PodHandler sets the runtime handler.
func PodHandler(name string) PodOpt { return func(s *PodSpec) { s.Handler = name } }

// PodHostNetwork puts the pod on the host's network.
func PodHostNetwork() PodOpt {
	return func(s *PodSpec) {
		s.Config.Linux.SecurityContext.NamespaceOptions.Network = runtime.NamespaceMode_NODE
	}
}

// PodSharedPID gives the pod's containers one PID namespace.
func PodSharedPID() PodOpt {
	return func(s *PodSpec) { s.Config.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_POD }
}

// PodHostPID puts the pod into the host's PID namespace.
func PodHostPID() PodOpt {
	return func(s *PodSpec) { s.Config.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_NODE }
}

// Pod is a running sandbox.
type Pod struct {
	// ID is the sandbox's ID.
	ID string
	// Config is what the sandbox was created with.
	Config *runtime.PodSandboxConfig

	n *Node
	t testing.TB
}

// Pod runs a sandbox. It is stopped and removed, its containers with it, when the test ends.
func (n *Node) Pod(t testing.TB, opts ...PodOpt) *Pod {
	t.Helper()
	p, err := n.TryPod(t, opts...)
	if err != nil {
		t.Fatalf("harness: run pod: %v", err)
	}
	return p
}

// TryPod is Pod for sandboxes that may fail.
func (n *Node) TryPod(t testing.TB, opts ...PodOpt) (*Pod, error) {
	t.Helper()
	n = n.In(t)
	uid := uuid.NewString()
	s := &PodSpec{
		CgroupChild: "pods",
		Config: &runtime.PodSandboxConfig{
			Metadata:     &runtime.PodSandboxMetadata{Name: n.unique("pod"), Namespace: "default", Uid: uid},
			LogDirectory: n.path("logs", uid),
			Labels:       map[string]string{},
			Annotations:  map[string]string{},
			Linux: &runtime.LinuxPodSandboxConfig{
				SecurityContext: &runtime.LinuxSandboxSecurityContext{
					NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
				},
			},
		},
	}
	for _, opt := range opts {
		opt(s)
	}
	meta := s.Config.Metadata
	setDefaults(s.Config.Labels, map[string]string{
		"io.kubernetes.pod.name": meta.Name, "io.kubernetes.pod.namespace": meta.Namespace, "io.kubernetes.pod.uid": meta.Uid,
	})
	if s.Config.Linux.CgroupParent == "" {
		s.Config.Linux.CgroupParent = n.cgroupParent(s.CgroupChild)
	}
	if s.Config.LogDirectory != "" {
		if err := os.MkdirAll(s.Config.LogDirectory, 0o755); err != nil {
			return nil, err
		}
	}
	ctx, cancel := callContext(t)
	defer cancel()
	resp, err := n.Runtime().RunPodSandbox(ctx, &runtime.RunPodSandboxRequest{Config: s.Config, RuntimeHandler: s.Handler})
	if err != nil {
		return nil, err
	}
	p := &Pod{ID: resp.GetPodSandboxId(), Config: s.Config, n: n, t: t}
	t.Cleanup(func() {
		if !n.running() {
			return // the node's own clean-up starts containerd again and removes every pod
		}
		if err := n.removePod(p.ID); err != nil {
			t.Errorf("harness: %v", err)
		}
	})
	return p, p.complete(ctx)
}

// complete waits until the sandbox's shell has started its sleep, which it does after
// RunPodSandbox has answered: an inventory before would lack a process.
func (p *Pod) complete(ctx context.Context) error {
	resp, err := p.n.Runtime().PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: p.ID, Verbose: true})
	if err != nil {
		return err
	}
	var info struct {
		Pid int `json:"pid"`
	}
	if err := json.Unmarshal([]byte(resp.GetInfo()["info"]), &info); err != nil {
		return fmt.Errorf("info of pod %s: %w", p.ID, err)
	}
	children := fmt.Sprintf("/proc/%d/task/%d/children", info.Pid, info.Pid)
	started := settle(ctx, func() bool {
		content, err := os.ReadFile(children)
		if err != nil {
			return true // without the file there is nothing to wait for
		}
		// Between fork and exec it is a shell still.
		name, err := os.ReadFile(filepath.Join("/proc", strings.TrimSpace(string(content)), "comm"))
		return err == nil && string(name) == "sleep\n"
	})
	if !started {
		return fmt.Errorf("pod %s: process %d of the sandbox has started no sleep", p.ID, info.Pid)
	}
	return nil
}

// setDefaults adds the labels that kubelet sets (k8s.io/kubelet/pkg/types), and that
// crictl shows, unless an option has set them.
func setDefaults(labels, defaults map[string]string) {
	for key, value := range defaults {
		if _, ok := labels[key]; !ok {
			labels[key] = value
		}
	}
}

// Node returns the pod's node, as a view of the pod's test.
func (p *Pod) Node() *Node { return p.n }

// Status returns CRI's status of the sandbox.
func (p *Pod) Status() *runtime.PodSandboxStatus {
	p.t.Helper()
	ctx, cancel := callContext(p.t)
	defer cancel()
	resp, err := p.n.Runtime().PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: p.ID})
	if err != nil {
		p.t.Fatalf("harness: status of pod %s: %v", p.ID, err)
	}
	return resp.GetStatus()
}

// IP is the pod's address on the node's network, "" on the host's.
func (p *Pod) IP() string {
	p.t.Helper()
	return p.Status().GetNetwork().GetIp()
}

// Stop stops the sandbox and its containers.
func (p *Pod) Stop() {
	p.t.Helper()
	ctx, cancel := callContext(p.t)
	defer cancel()
	if _, err := p.n.Runtime().StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		p.t.Fatalf("harness: stop pod %s: %v", p.ID, err)
	}
}

// Remove stops and removes the sandbox and its containers. It may be called more than once.
func (p *Pod) Remove() {
	p.t.Helper()
	if err := p.n.removePod(p.ID); err != nil {
		p.t.Fatalf("harness: %v", err)
	}
}

func (n *Node) removePod(id string) error {
	ctx, cancel := callContext(n.t)
	defer cancel()
	if _, err := n.Runtime().StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("stop pod %s: %w", id, err)
	}
	if _, err := n.Runtime().RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("remove pod %s: %w", id, err)
	}
	return nil
}

// removeAllPods removes every pod of the node, whoever created it.
func (n *Node) removeAllPods() error {
	ctx, cancel := callContext(n.t)
	defer cancel()
	list, err := n.Runtime().ListPodSandbox(ctx, &runtime.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var errs []error
	for _, item := range list.GetItems() {
		errs = append(errs, n.removePod(item.GetId()))
	}
	return errors.Join(errs...)
}

// cgroupParent returns the full path of a cgroup parent and remembers it: runc
// creates it and does not remove it, so it is no leak.
func (n *node) cgroupParent(child string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	child = childOf(n.id, child)
	for dir := child; dir != "." && dir != "/"; dir = filepath.Dir(dir) {
		n.parents[dir] = true
	}
	return filepath.Join(cgroupOf(n.id), child)
}
