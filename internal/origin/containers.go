package origin

import (
	"context"
	"fmt"

	api "github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/recovery"
)

// Containers is containerd's in-process service of containers, by which its CRI plugin creates them. All it adds is the
// note that [With] has put into the context.
type Containers struct{ api.ContainersClient }

var _ api.ContainersClient = (*Containers)(nil)

// Create creates a container, with the note of the context if there is one.
func (c *Containers) Create(ctx context.Context, r *api.CreateContainerRequest,
	opts ...grpc.CallOption) (_ *api.CreateContainerResponse, retErr error) {
	defer recovery.Into(ctx, &retErr, "Create")
	o := from(ctx)
	if o == nil || r.GetContainer() == nil {
		return c.ContainersClient.Create(ctx, r, opts...)
	}
	noted := proto.Clone(r).(*api.CreateContainerRequest)
	var err error
	if noted.Container.Labels, noted.Container.Extensions,
		err = o.note(noted.Container.Labels, noted.Container.Extensions); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("note the origin of container %s: %w", noted.Container.ID, err))
	}
	return c.ContainersClient.Create(ctx, noted, opts...)
}
