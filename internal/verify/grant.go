package verify

import (
	"fmt"
	"path"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/grant"
)

// Grant is what the spec grants its container, by the rules by which checkpoints are compared with it.
func Grant(spec *specs.Spec) (*grant.Container, error) {
	if spec.Process == nil || spec.Linux == nil || spec.Root == nil {
		return nil, fmt.Errorf("OCI spec of the new container: it has no process, root or Linux section")
	}
	v := &verifier{spec: spec}
	g, own, err := v.granted()
	if err != nil {
		return nil, err
	}
	label, err := grantedLabel(spec.Process, own)
	if err != nil {
		return nil, err
	}
	inheritable := g.reachableInheritable()
	c := &grant.Container{
		Process: grant.Process{
			UIDs: []uint32{g.uid}, AnyUID: g.permitted.has(capSetUID), GIDs: append([]uint32{g.gid}, g.groups...), AnyGID: g.permitted.has(capSetGID),
			Sets:       [5]uint64{uint64(inheritable), uint64(g.reachable), uint64(g.reachable), uint64(g.bounding), uint64(g.reachable & inheritable)},
			NoNewPrivs: g.noNewPrivs, Seccomp: spec.Linux.Seccomp != nil, Label: label.name, OOMScore: spec.Process.OOMScoreAdj,
		},
		RootReadonly: spec.Root.Readonly, RootShared: v.sharedRoot(), Terminal: spec.Process.Terminal,
		Files: g.holder(), MaskedPaths: spec.Linux.MaskedPaths, ReadonlyPaths: spec.Linux.ReadonlyPaths, Namespaces: spec.Linux.Namespaces,
	}
	if !g.permitted.has(capSysResource) {
		hard := v.hardLimits(own)
		c.Process.Hard = hard[:]
	}
	for _, m := range spec.Mounts {
		w, err := v.wantedMount(path.Clean("/"+m.Destination), m)
		if err != nil {
			return nil, fmt.Errorf("mount %.200q of the OCI spec: %w", m.Destination, err)
		}
		out := grant.Mount{Destination: w.path, Flags: w.flags, Slave: w.slave, Shared: w.shared, Below: w.controllers}
		if w.kind == fresh {
			out.Type = fstypeName(w.fstype)
		} else {
			out.Source = m.Source
		}
		c.Mounts = append(c.Mounts, out)
	}
	return c, nil
}
