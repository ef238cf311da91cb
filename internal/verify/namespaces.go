package verify

import (
	"errors"
	"fmt"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// mode is how a container gets a namespace. CRIU restores the mode it has
// dumped: a namespace of the host stays the host's, and one that was created for the container is
// created again, whatever path the new spec names. Only a namespace that was
// given by a path can be replaced by another one.
type mode string

const (
	host    mode = "the host's"
	private mode = "one of its own"
	joined  mode = "one that it shares with its pod"
)

// remedies say what to change in the pod, by kind of namespace.
var remedies = map[specs.LinuxNamespaceType]string{
	specs.NetworkNamespace: "set hostNetwork as in the pod that was checkpointed",
	specs.PIDNamespace:     "set shareProcessNamespace and hostPID as in the pod that was checkpointed",
	specs.IPCNamespace:     "set hostIPC as in the pod that was checkpointed",
	specs.UTSNamespace:     "set hostNetwork as in the pod that was checkpointed",
	specs.CgroupNamespace:  "restore on a node with the same cgroup version, and set privileged as in the pod that was checkpointed",
	specs.MountNamespace:   "a container needs a mount namespace",
}

// namespaces compares the kinds of which CRIU restores one and the spec could say another.
func namespaces(was, is *specs.Spec) error {
	var errs []error
	for _, kind := range []specs.LinuxNamespaceType{
		specs.NetworkNamespace, specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.MountNamespace,
	} {
		a, b := modeOf(was, kind), modeOf(is, kind)
		// CRIU joins these wherever the spec names one. Podman gives a container its own.
		if a == private && b == joined && (kind == specs.IPCNamespace || kind == specs.UTSNamespace) {
			continue
		}
		if a != b {
			errs = append(errs, fmt.Errorf("the %s namespace was %s when the checkpoint was taken and would now be %s: %s", kind, a, b, remedies[kind]))
		}
	}
	for _, s := range []struct {
		name string
		spec *specs.Spec
	}{{"the checkpoint", was}, {"the pod", is}} {
		if modeOf(s.spec, specs.UserNamespace) != host {
			errs = append(errs, fmt.Errorf("%s uses a user namespace, which CRIU cannot restore in a pod: set hostUsers: true", s.name))
		}
	}
	return errors.Join(errs...)
}

func modeOf(s *specs.Spec, kind specs.LinuxNamespaceType) mode {
	for _, n := range s.Linux.Namespaces {
		if n.Type == kind {
			if n.Path != "" {
				return joined
			}
			return private
		}
	}
	return host
}
