package main

import (
	"context"
	"fmt"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"
	"google.golang.org/grpc"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/policy"
	"github.com/cri-restore/cri-restore/internal/upstream"
)

// notForContainers are the flags that say what the node decides when a running container is checkpointed.
var notForContainers = []string{"layout", "oci-archive", "compression", "platform", "temp-dir", "snapshotter",
	"namespace"}

// checkpoint lets a running container become a checkpoint image on its node, without an archive.
func checkpoint(ctx context.Context, c *cli.Command, name string) (ocispec.Descriptor, error) {
	none := ocispec.Descriptor{}
	if c.NArg() > 0 {
		return none, fmt.Errorf("give an archive or --container, not both")
	}
	for _, flag := range notForContainers {
		if c.IsSet(flag) {
			return none, fmt.Errorf("--%s is for archives; a container's image is made by its containerd, which --containerd "+
				"names", flag)
		}
	}
	client, err := containerd.New(c.String("containerd"))
	if err != nil {
		return none, err
	}
	defer client.Close()
	conn, ok := client.Conn().(grpc.ClientConnInterface)
	if !ok {
		return none, fmt.Errorf("containerd's connection is %T: %w", client.Conn(), errdefs.ErrNotImplemented)
	}
	if _, err := runtime.NewRuntimeServiceClient(conn).CheckpointContainer(ctx, &runtime.CheckpointContainerRequest{
		ContainerId: c.String("container"), Location: policy.ImageLocation + name,
		Timeout: int64(c.Duration("timeout") / time.Second),
	}); err != nil {
		return none, errgrpc.ToNative(err)
	}
	img, err := client.ImageService().Get(namespaces.WithNamespace(ctx, upstream.Namespace), name)
	return img.Target, err
}
