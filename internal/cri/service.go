// Package cri decorates containerd's CRI services: a container whose image is
// a checkpoint is created so that starting it restores it. The package is the
// order of the steps; what each step does is in the packages that it calls.
package cri

import (
	"context"
	"fmt"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

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
	// Snapshotters are the names of the node's snapshotters.
	Snapshotters []string
	// Dumps takes checkpoints.
	Dumps *dump.Store
	// CRIRoot is the root directory of containerd's CRI plugin.
	CRIRoot string
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
	// Audit makes verification log and count what it would refuse.
	Audit bool
}

// Runtime is containerd's CRI runtime service with restore.
type Runtime struct {
	runtime.RuntimeServiceServer
	node     *Node
	images   runtime.ImageServiceServer
	detector *image.Detector
	bases    *image.Bases
}

// Images is containerd's CRI image service, which pulls the base image along
// with a checkpoint image.
type Images struct {
	runtime.ImageServiceServer
	node     *Node
	runtime  runtime.RuntimeServiceServer
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
		bases    = image.NewBases(i, n.Client.ContentStore(), n.PullTimeout)
	)
	bases.NeverPull, bases.Admit, bases.HostDirs = n.NeverPull, n.Policy.BaseImage, n.RegistryDirs
	return &Runtime{RuntimeServiceServer: r, node: n, images: i, detector: detector, bases: bases},
		&Images{ImageServiceServer: i, node: n, runtime: r, detector: detector, bases: bases}
}

// Refusing is containerd's CRI runtime service on a node that cannot restore.
// A checkpoint image is refused with the reason instead of being run as an
// ordinary one, and so is the start of a container that was created when the
// node still could.
type Refusing struct {
	runtime.RuntimeServiceServer
	containers containers.Store
	detector   *image.Detector
	reason     error
}

// Refuse decorates the runtime service of a node that cannot restore.
func Refuse(c *containerd.Client, r runtime.RuntimeServiceServer, i runtime.ImageServiceServer, reason error) *Refusing {
	return &Refusing{
		RuntimeServiceServer: r,
		containers:           c.ContainerService(),
		detector:             image.NewDetector(i, c.ImageService(), c.ContentStore()),
		reason:               reason,
	}
}

// CreateContainer refuses checkpoint images and leaves the rest to containerd.
func (s *Refusing) CreateContainer(ctx context.Context, r *runtime.CreateContainerRequest) (*runtime.CreateContainerResponse, error) {
	ref := r.GetConfig().GetImage().GetImage()
	img, err := s.detector.Detect(ctx, ref)
	if err != nil {
		return nil, err
	}
	if img != nil || policy.IsArchive(ref) {
		// The reason's own class would be misleading: an absent CRIU is no absent image.
		return nil, fmt.Errorf("image %q is a checkpoint, which this node cannot restore: %s: %w", ref, s.reason.Error(), errdefs.ErrFailedPrecondition)
	}
	return s.RuntimeServiceServer.CreateContainer(ctx, r)
}

// StartContainer refuses containers that are still to be restored, which would
// otherwise start from their base image, and leaves the rest to containerd.
func (s *Refusing) StartContainer(ctx context.Context, r *runtime.StartContainerRequest) (*runtime.StartContainerResponse, error) {
	// The ID may be a prefix, as crictl sends it. What is not found is for containerd to say.
	if resp, err := s.ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: r.GetContainerId()}); err == nil {
		c, err := s.containers.Get(ctx, resp.GetStatus().GetId())
		if err == nil && restore.Pending(&c) {
			return nil, fmt.Errorf("container %s is to go on from a checkpoint, which this node cannot restore: %s: %w", c.ID, s.reason.Error(), errdefs.ErrFailedPrecondition)
		}
	}
	return s.RuntimeServiceServer.StartContainer(ctx, r)
}
