// Package cri decorates containerd's CRI services: a container whose image is
// a checkpoint is created so that starting it restores it. The package is the
// order of the steps; what each step does is in the packages that it calls.
package cri

import (
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/ability"
	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/dump"
	"github.com/cri-restore/cri-restore/internal/image"
	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// cleanupTimeout bounds the clean-up after a request that failed, whose own
// context may have ended.
const cleanupTimeout = 30 * time.Second

// Node is what restores need of the node.
type Node struct {
	// Client is containerd's, in process.
	Client *containerd.Client
	// Able says whether the node can restore, as far as that was not seen when containerd started.
	Able *ability.Ability
	// Snapshotters are the names of the node's snapshotters.
	Snapshotters []string
	// Dumps takes checkpoints.
	Dumps *dump.Store
	// NoCRIU is set if the CRI plugin's own configuration forbids checkpoints (enable_criu = false).
	NoCRIU bool
	// Restores keeps the restores.
	Restores *restore.Store
	// Policy says who may restore what.
	Policy *policy.Policy
	// Limits bound what is read from a checkpoint.
	Limits checkpoint.Limits
	// PullTimeout bounds the pull of a base image.
	PullTimeout time.Duration
	// NeverPull makes restores do with the base images that the node has.
	NeverPull bool
	// RegistryDirs returns the directories with the node's registry configuration, separated as in PATH.
	RegistryDirs func() string
	// VerificationTimeout is what the verification of a checkpoint may take, 0 for as long as its request does.
	VerificationTimeout time.Duration
	// CommandTimeout is what a command of a pod's annotations may take.
	CommandTimeout time.Duration
	// DisableMPTCP turns Multipath TCP off in the networks of pods.
	DisableMPTCP bool
	// Audit makes verification log and count what it would refuse.
	Audit bool

	users users
}

// Runtime is containerd's CRI runtime service with restore.
type Runtime struct {
	runtime.RuntimeServiceServer
	node     *Node
	images   runtime.ImageServiceServer
	look     looker
	detector *image.Detector
	bases    *image.Bases
}

// Images is containerd's CRI image service, which pulls the base image along
// with a checkpoint image.
type Images struct {
	runtime.ImageServiceServer
	node     *Node
	look     looker
	detector *image.Detector
	bases    *image.Bases
}

var (
	_ runtime.RuntimeServiceServer = (*Runtime)(nil)
	_ runtime.ImageServiceServer   = (*Images)(nil)
)

// New decorates both services.
func New(n *Node, r runtime.RuntimeServiceServer, i runtime.ImageServiceServer) (*Runtime, *Images) {
	var (
		detector = image.NewDetector(i, n.Client.ImageService(), n.Client.ContentStore())
		look     = looker{client: n.Client, snapshotters: n.Snapshotters}
		bases    = image.NewBases(i, n.Client.ContentStore(), n.PullTimeout)
	)
	n.users.store = n.Client.ContainerService()
	bases.NeverPull, bases.Admit, bases.HostDirs = n.NeverPull, n.Policy.BaseImage, n.RegistryDirs
	return &Runtime{RuntimeServiceServer: r, node: n, images: i, look: look, detector: detector, bases: bases},
		&Images{ImageServiceServer: i, node: n, look: look, detector: detector, bases: bases}
}
