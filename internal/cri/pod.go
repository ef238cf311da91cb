package cri

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// pod is what a restore needs to know of the sandbox.
type pod struct {
	id, namespace, handler, snapshotter string
	annotations                         map[string]string
	// addresses are those of its network, none in the node's.
	addresses []netip.Addr
}

// pod looks the sandbox up. One whose containers runc does not run is refused:
// no other runtime restores a checkpoint.
func (s *Runtime) pod(ctx context.Context, id string) (*pod, error) {
	resp, err := s.PodSandboxStatus(ctx, &runtime.PodSandboxStatusRequest{PodSandboxId: id})
	if err != nil {
		return nil, fmt.Errorf("pod sandbox %q: %w", id, err)
	}
	st := resp.GetStatus()
	p := &pod{id: st.GetId(), namespace: st.GetMetadata().GetNamespace(), handler: st.GetRuntimeHandler(),
		annotations: st.GetAnnotations()}
	for _, ip := range append([]*runtime.PodIP{{Ip: st.GetNetwork().GetIp()}}, st.GetNetwork().GetAdditionalIps()...) {
		if a, err := netip.ParseAddr(ip.GetIp()); err == nil {
			p.addresses = append(p.addresses, a.Unmap())
		}
	}
	// containerd keeps the sandbox of a runc pod as a container of its own,
	// with the handler's runtime and snapshotter (internal/cri/server/podsandbox).
	c, err := s.node.Client.ContainerService().Get(ctx, p.id)
	if errdefs.IsNotFound(err) {
		return nil, handlerError(p, "a sandbox controller of its own")
	}
	if err != nil {
		return nil, fmt.Errorf("sandbox %s: %w", p.id, err)
	}
	if c.Runtime.Name != restore.RuntimeRunc {
		return nil, handlerError(p, c.Runtime.Name)
	}
	p.snapshotter = c.Snapshotter
	return p, nil
}

func handlerError(p *pod, is string) error {
	name := p.handler
	if name == "" {
		name = "default"
	}
	return fmt.Errorf("pod sandbox %s: runtime handler %q is %s, only %s can restore a checkpoint: choose another "+
		"runtime class: %w",
		p.id, name, is, restore.RuntimeRunc, errdefs.ErrFailedPrecondition)
}

// admit applies the node's policy, and refuses annotations that are the plugin's own. It
// returns what the pod asks of the plugin.
func (s *Runtime) admit(r *runtime.CreateContainerRequest, p *pod, src source) (policy.Pod, error) {
	if err := s.node.Policy.Namespace(p.namespace); err != nil {
		return policy.Pod{}, err
	}
	if err := src.admit(); err != nil {
		return policy.Pod{}, err
	}
	for key := range r.GetConfig().GetAnnotations() {
		if strings.HasPrefix(key, restore.AnnotationPrefix) || key == restore.AnnotationCRIUConfig {
			return policy.Pod{}, fmt.Errorf("container annotation %q is set by the restore plugin only: remove it: %w", key,
				errdefs.ErrInvalidArgument)
		}
	}
	if _, ok := r.GetSandboxConfig().GetAnnotations()[restore.AnnotationCRIUConfig]; ok {
		return policy.Pod{}, fmt.Errorf("pod annotation %q would change what CRIU does and is not allowed with a "+
			"checkpoint: remove it: %w",
			restore.AnnotationCRIUConfig, errdefs.ErrInvalidArgument)
	}
	return s.node.Policy.Pod(p.annotations)
}
