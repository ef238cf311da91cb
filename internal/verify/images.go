package verify

import (
	"fmt"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// Rules are the node's word on what a specification does not say.
type Rules struct {
	// AcceptTCP accepts connections that were established: CRIU is told what to do with them.
	AcceptTCP bool
}

// Images compares the images, which are what CRIU goes by, with the final spec of the new
// container: what its processes were granted. The report says what a restore would give them
// beyond that, and which images CRIU has to read in another form for the
// spec's value to come true.
//
// The mounts are for [Mounts]. The error is of class errdefs.ErrInvalidArgument if the images cannot be read or are not such
// as CRIU writes them. It comes with a report of what was compared until then.
func Images(images *criu.Images, spec *specs.Spec, rules Rules) (*Report, error) {
	v := &verifier{images: images, spec: spec, rules: rules, edited: map[uint32]*criu_core.CoreEntry{}}
	if spec.Process == nil || spec.Linux == nil || spec.Root == nil {
		return &v.report, fmt.Errorf("OCI spec of the new container: it has no process, root or Linux section")
	}
	var err error
	if v.processes, err = images.Processes(); err != nil {
		return &v.report, err
	}
	for _, check := range []func(*verifier) error{
		(*verifier).names,
		(*verifier).inventory,
		(*verifier).processNamespaces,
		(*verifier).credentials,
		(*verifier).seccomp,
		(*verifier).limits,
		(*verifier).openFiles,
		(*verifier).memory,
	} {
		if err := check(v); err != nil {
			return &v.report, err
		}
	}
	for tid, core := range v.edited {
		if err := v.replace(criu.CoreName(tid), "CORE", core); err != nil {
			return &v.report, err
		}
	}
	return &v.report, nil
}

// verifier is one comparison.
type verifier struct {
	images    *criu.Images
	spec      *specs.Spec
	rules     Rules
	processes []*criu.Process
	edited    map[uint32]*criu_core.CoreEntry
	root      linkTree // the links of the root file system, for the mounts
	report    Report
}

// refuse notes what the pod was not granted.
func (v *verifier) refuse(f Finding) { v.report.add(f) }

// edit returns a copy of a thread's core image that CRIU is to read in its place, for the caller to change.
func (v *verifier) edit(tid uint32, core *criu_core.CoreEntry) *criu_core.CoreEntry {
	if v.edited[tid] == nil {
		v.edited[tid] = proto.Clone(core).(*criu_core.CoreEntry)
	}
	return v.edited[tid]
}

// replace makes CRIU read these entries in the place of an image.
func (v *verifier) replace(name, kind string, entries ...proto.Message) error {
	data, err := criu.Encode(kind, entries...)
	if err != nil {
		return err
	}
	v.report.replace(name, data)
	return nil
}
