package verify

import (
	"context"
	"errors"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/criu"
)

// Subject is what is verified.
type Subject struct {
	// Images are what CRIU goes by.
	Images *criu.Images
	// Metadata is what the engine that took the checkpoint says of it. Without any only the images are compared.
	Metadata *checkpoint.Metadata
	// Spec is the final OCI spec of the new container.
	Spec *specs.Spec
	// Stdin says that the new container gets a standard input.
	Stdin bool
	Rules Rules
}

// Rules are the node's word on what a specification does not say.
type Rules struct {
	// AcceptTCP accepts connections that were established: CRIU is told what to do with them.
	AcceptTCP bool
	// LocalTCP has those closed of which not both ends are in the checkpoint, or which the new pod has no addresses for.
	LocalTCP bool
	// Network is that of the new pod. Without it sockets keep the addresses that they had.
	Network *Network
}

// verifier is one phase of a verification. It is made whole, or not at all, by newVerifier.
type verifier struct {
	budget
	images    *criu.Images
	spec      *specs.Spec
	rules     Rules
	processes []*criu.Process
	edited    map[uint32]*criu_core.CoreEntry
	report    *Report
}

func newVerifier(ctx context.Context, s Subject, report *Report) (*verifier, error) {
	if s.Spec == nil || s.Spec.Process == nil || s.Spec.Linux == nil || s.Spec.Root == nil {
		return nil, errors.New("OCI spec of the new container: it has no process, root or Linux section")
	}
	s.Images.Until(ctx)
	processes, err := s.Images.Processes()
	if err != nil {
		return nil, err
	}
	return &verifier{
		budget: budget{ctx: ctx}, images: s.Images, spec: s.Spec, rules: s.Rules, processes: processes,
		edited: map[uint32]*criu_core.CoreEntry{}, report: report,
	}, nil
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

// replaceEdited makes CRIU read the core images that were changed.
func (v *verifier) replaceEdited() error {
	for tid, core := range v.edited {
		if err := v.replace(criu.CoreName(tid), "CORE", core); err != nil {
			return err
		}
	}
	return nil
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
