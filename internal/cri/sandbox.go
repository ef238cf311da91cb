package cri

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/podnet"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// sysctlMultipath is the name by which a pod asks for the sysctl itself.
const sysctlMultipath = "net.mptcp.enabled"

// RunPodSandbox runs a pod, and turns off in its network what CRIU cannot dump and no program needs.
func (s *Runtime) RunPodSandbox(ctx context.Context,
	r *runtime.RunPodSandboxRequest) (_ *runtime.RunPodSandboxResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "RunPodSandbox")
	resp, err := s.RuntimeServiceServer.RunPodSandbox(ctx, r)
	if err != nil || !s.node.DisableMPTCP || asksForMultipath(r.GetConfig().GetLinux()) {
		return resp, err
	}
	// The pod runs, and is right as it is: it is only that its containers may turn out not to be checkpointable.
	if err := recovery.Do(ctx, "turn off Multipath TCP",
		func() error { return s.turnOffMultipath(ctx, resp.GetPodSandboxId()) }); err != nil {
		log.G(ctx).WithError(err).WithField("sandbox", resp.GetPodSandboxId()).
			Warn("failed to turn off Multipath TCP in a pod")
	}
	return resp, nil
}

func asksForMultipath(c *runtime.LinuxPodSandboxConfig) bool {
	for name := range c.GetSysctls() {
		if strings.ReplaceAll(name, "/", ".") == sysctlMultipath {
			return true
		}
	}
	return false
}

// turnOffMultipath does so in a network that is the pod's own. A pod of another runtime has processes that this node's
// kernel does not know of.
func (s *Runtime) turnOffMultipath(ctx context.Context, id string) error {
	c, err := s.node.Client.ContainerService().Get(ctx, id)
	if errdefs.IsNotFound(err) || err == nil && c.Runtime.Name != restore.RuntimeRunc {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sandbox %s: %w", id, err)
	}
	spec, err := restore.SpecOf(&c)
	if err != nil {
		return err
	}
	path := networkOf(spec)
	if path == "" {
		return nil // the node's
	}
	if err := podnet.TurnOffMultipath(path); err != nil {
		return fmt.Errorf("network of sandbox %s: %w", id, err)
	}
	return nil
}

// networkOf is the path of the network namespace in a spec, empty for the node's.
func networkOf(spec *specs.Spec) string {
	if spec.Linux == nil {
		return ""
	}
	for _, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			return ns.Path
		}
	}
	return ""
}
