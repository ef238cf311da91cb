// Package upstream is what containerd's CRI plugin keeps to itself and this project needs: its names, its directories,
// its notes on a container, and its configuration. Each fact stands once in this package or is cited where it is used,
// and all are listed in docs/containerd.md, which the tests of this package hold against containerd's source.
package upstream

import (
	"path/filepath"

	"github.com/containerd/containerd/v2/plugins"
)

// Namespace is the one in which the CRI plugin has its containers, images and tasks (containerd:
// internal/cri/constants).
const Namespace = "k8s.io"

// AnnotationRuntimeHandler of a pod names its runtime handler to containerd before 2.5 where the pull request does not
// (containerd: internal/cri/annotations).
const AnnotationRuntimeHandler = "io.containerd.cri.runtime-handler"

// Annotations of a container's OCI spec that say which container of which pod it is (containerd:
// internal/cri/annotations).
const (
	AnnotationContainerName = "io.kubernetes.cri.container-name"
	AnnotationPodName       = "io.kubernetes.cri.sandbox-name"
	AnnotationPodNamespace  = "io.kubernetes.cri.sandbox-namespace"
	AnnotationPodUID        = "io.kubernetes.cri.sandbox-uid"
	AnnotationPodID         = "io.kubernetes.cri.sandbox-id"
)

// Bundles is the directory with the OCI bundles of the CRI plugin's tasks. state is the state directory of any plugin
// of the same containerd (containerd: core/runtime/v2/bundle.go).
func Bundles(state string) string {
	return filepath.Join(filepath.Dir(state), plugins.RuntimePluginV2.String()+".task", Namespace)
}

// StatusFile is where the CRI plugin keeps the state of a container. root is the root directory of any plugin of the
// same containerd (containerd: plugins/cri/runtime/plugin.go, internal/cri/store/container/status.go).
func StatusFile(root, container string) string {
	return filepath.Join(filepath.Dir(root), plugins.GRPCPlugin.String()+".cri", "containers", container, "status")
}
