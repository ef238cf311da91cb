package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/mounts"
)

// KeepPodNamespaces makes CRIU leave the host name and the IPC limits of the pod as they
// are. CRIU joins these two namespaces, and then writes into them what was dumped: the
// whole pod would be renamed, and with a pod on the host's network the node.
//
// There is no option against it. So the two images that say it are covered by
// others, with what is true in the pod; the covers are mounted below images, and go with what
// is mounted there. Objects of System V IPC are restored: a process may have them attached.
func (s *Store) KeepPodNamespaces(c *containers.Container, r *Record, images string) error {
	spec, err := SpecOf(c)
	if err != nil {
		return err
	}
	if spec.Linux == nil {
		return nil
	}
	entries, err := os.ReadDir(images)
	if err != nil {
		return fmt.Errorf("CRIU images: %w", err)
	}
	for _, ns := range spec.Linux.Namespaces {
		cover, ok := covers[ns.Type]
		if !ok || ns.Path == "" {
			continue // a namespace of its own is the checkpoint's to fill
		}
		file := filepath.Join(s.Dirs.Work(r.ID), string(ns.Type)+".img")
		if err := cover.write(ns.Path, file); err != nil {
			return fmt.Errorf("%s namespace of the pod: %w", ns.Type, err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), cover.image) {
				if err := bindOver(file, filepath.Join(images, e.Name())); err != nil {
					return fmt.Errorf("CRIU image %s: %w", e.Name(), err)
				}
			}
		}
	}
	return nil
}

// covers say how the images begin whose content is the pod's (criu/image-desc.c).
var covers = map[specs.LinuxNamespaceType]struct {
	image string
	write func(namespace, file string) error
}{
	specs.UTSNamespace: {"utsns-", criu.WriteUTS},
	specs.IPCNamespace: {"ipcns-var-", criu.WriteIPC},
}

// bindOver makes file appear as target, unless it does so already, as it may
// after a restart of containerd.
func bindOver(file, target string) error {
	target, err := filepath.EvalSymlinks(target) // as the kernel lists it
	if err != nil {
		return err
	}
	if mounted, err := mountinfo.Mounted(target); err != nil || mounted {
		return err
	}
	if err := unix.Mount(file, target, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount over it: %w", errors.Join(err, mounts.Below(target)))
	}
	return nil
}
