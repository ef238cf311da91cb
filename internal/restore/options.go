package restore

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// RuntimeRunc is the only runtime that restores: its shim hands a checkpoint to
// runc, which hands it to CRIU.
const RuntimeRunc = "io.containerd.runc.v2"

// TaskOptions returns the options with which the task of a restored container is
// created: those of the request, or else the container's own runtime options,
// with CRIU's directories added. Options of a task replace the container's (containerd: core/runtime/v2/shim.go), so
// they have to hold all of them.
//
// user is the one that the container's spec names. To an ordinary container runc gives standard input, output and
// error: its first process does it, before it becomes the program (runc: libcontainer/init_linux.go,
// fixStdioPermissions). A restore has no such process, so the shim makes the pipes the user's. Without that a program
// of another user than root could not open /dev/stdout.
func TaskOptions(request, container typeurl.Any, images, work string, user uint32) (*anypb.Any, error) {
	merged, err := runtimeOptions(request, container)
	if err != nil {
		return nil, err
	}
	merged.CriuImagePath = images
	merged.CriuWorkPath = work
	merged.IoUid = user
	out, err := typeurl.MarshalAnyToProto(merged)
	if err != nil {
		return nil, fmt.Errorf("runtime options: %w", err)
	}
	return out, nil
}

// User is the user that a container's OCI spec names.
func User(c *containers.Container) (uint32, error) {
	spec, err := SpecOf(c)
	if err != nil {
		return 0, err
	}
	if spec.Process == nil {
		return 0, nil
	}
	return spec.Process.User.UID, nil
}

// CheckRuntime refuses a runc that must not restore. The options are those of [TaskOptions]. The error is of class
// errdefs.ErrFailedPrecondition and names the file.
func (s *Store) CheckRuntime(ctx context.Context, request, container typeurl.Any) error {
	merged, err := runtimeOptions(request, container)
	if err != nil || s.Runc == nil {
		return err
	}
	_, _, err = s.Runc.Version(ctx, merged.BinaryName)
	return err
}

func runtimeOptions(request, container typeurl.Any) (*options.Options, error) {
	merged := &options.Options{}
	from := request
	if from == nil || from.GetTypeUrl() == "" {
		from = container
	}
	if from != nil && from.GetTypeUrl() != "" {
		if !typeurl.Is(from, merged) {
			return nil, fmt.Errorf("runtime options are %s, only runc's can restore a checkpoint: %w",
				from.GetTypeUrl(), errdefs.ErrFailedPrecondition)
		}
		if err := typeurl.UnmarshalTo(from, merged); err != nil {
			return nil, fmt.Errorf("runtime options: %w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return merged, nil
}
