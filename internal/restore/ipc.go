package restore

import (
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/sysv"
)

// nodeIPC is the node's own IPC namespace.
const nodeIPC = "/proc/self/ns/ipc"

// IPCInTheWay returns what the pod's IPC namespace has of System V IPC that keeps CRIU from making the checkpoint's
// objects: CRIU makes each anew, with its key and its ID (criu/ipc_ns.c). The pod has them when the container has run
// in it before, because they outlive processes. The path is that of the namespace.
func IPCInTheWay(made []sysv.Object, spec *specs.Spec) (path string, inTheWay []sysv.Object, err error) {
	if path = PodIPC(spec); path == "" || len(made) == 0 {
		return "", nil, nil
	}
	there, err := sysv.List(path)
	if err != nil {
		return "", nil, fmt.Errorf("list System V IPC of the pod: %w", err)
	}
	return path, sysv.InTheWay(there, made), nil
}

// ClearIPC removes objects that are left of the container's earlier life. The caller knows that no other container of
// the pod runs. The error is of class errdefs.ErrFailedPrecondition if a process has one attached all the same.
func ClearIPC(path string, objects []sysv.Object) error {
	for _, o := range objects {
		if o.Attached > 0 {
			return fmt.Errorf("%s of the pod is in the way of the checkpoint's, and attached by %d processes: end them: %w", o,
				o.Attached, errdefs.ErrFailedPrecondition)
		}
	}
	return sysv.Remove(path, objects)
}

// PodIPC is the path of the IPC namespace that the container shares with its pod, empty if it has one of its own or the
// node's.
func PodIPC(spec *specs.Spec) string {
	if spec.Linux == nil {
		return ""
	}
	i := slices.IndexFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.IPCNamespace })
	if i < 0 {
		return ""
	}
	path := spec.Linux.Namespaces[i].Path
	theirs, err := os.Stat(path)
	ours, oerr := os.Stat(nodeIPC)
	if err != nil || oerr != nil || os.SameFile(theirs, ours) {
		return ""
	}
	return path
}
