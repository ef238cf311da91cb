package restore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

// runcRoot is where the shim has runc keep its state if the handler has no root of its own (containerd:
// cmd/containerd-shim-runc-v2/process).
const runcRoot = "/run/containerd/runc"

// RemoveRuncState has runc remove what it knows of a container that containerd has removed. Nobody else would, ever:
// containerd asks runc to remove it when the shim is found dead, and a runc that outlives its shim, or is killed
// itself, makes or leaves it after that.
func (s *Store) RemoveRuncState(ctx context.Context, c *containers.Container) error {
	namespace, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	options, err := runtimeOptions(nil, c.Runtime.Options)
	if err != nil {
		return err
	}
	root := options.Root
	if root == "" {
		root = runcRoot
	}
	root = filepath.Join(root, namespace)
	if _, err := os.Lstat(filepath.Join(root, c.ID)); errors.Is(err, fs.ErrNotExist) || s.Runc == nil {
		return nil
	}
	// runc deletes the directory with all that is below it.
	if err := s.detachLeftovers(c.ID); err != nil {
		return err
	}
	file, err := s.Runc.Find(options.BinaryName)
	if err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, file, "--root", root, "delete", "--force", c.ID).CombinedOutput()
	if err != nil {
		return fmt.Errorf("state of container %s in %s: %s delete: %w: %.200q: run it: %w",
			c.ID, root, file, err, strings.TrimSpace(string(out)), errdefs.ErrInternal)
	}
	return nil
}
