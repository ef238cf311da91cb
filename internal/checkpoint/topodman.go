package checkpoint

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strings"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// PodmanOptions say what an archive for Podman needs and a checkpoint of containerd does not have.
type PodmanOptions struct {
	// Runtime is Podman's name of the OCI runtime that will restore: it insists on the same name. Empty: runc.
	Runtime string
	// RootMode is the mode of "/" when the checkpoint was taken, which CRIU compares. Podman's own is 0555.
	RootMode uint32
	// Volumes are the sources on the node of the volumes, by their path in the container.
	Volumes map[string]string
	// TempDir is where the changes to the root file system are written meanwhile. Empty: [os.TempDir].
	TempDir string
}

// podmanMounts are those that Podman makes itself (libpod/container_internal_common.go, makeBindMounts).
var podmanMounts = []string{"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/dev/shm", containerEnv}

// WritePodman writes a checkpoint of containerd as an archive that "podman container restore --import" accepts: Podman
// takes container and OCI spec from the archive and knows no whiteouts (libpod/container_internal_common.go and
// pkg/checkpoint/checkpoint_restore.go, checked with 4.3.1).
//
// Errors: errdefs.ErrFailedPrecondition for what Podman would not restore, with the reason.
func (c *Checkpoint) WritePodman(ctx context.Context, w io.Writer, o PodmanOptions) error {
	if c.Metadata.Engine != EngineContainerd {
		return fmt.Errorf("it is a checkpoint of %s, not of containerd: %w", c.Metadata.Engine, errdefs.ErrFailedPrecondition)
	}
	spec, err := c.podmanSpec(o)
	if err != nil {
		return err
	}
	config, err := c.podmanConfig(spec, o)
	if err != nil {
		return err
	}
	p := &podmanWriter{ctx: ctx, tar: tar.NewWriter(w)}
	if err := errors.Join(p.json(metadata.ConfigDumpFile, config), p.json(metadata.SpecDumpFile, spec)); err != nil {
		return err
	}
	if err := p.changes(c, o); err != nil {
		return err
	}
	if log, err := c.OpenLog(); err == nil {
		if err := errors.Join(p.copy("ctr.log", log), log.Close()); err != nil {
			return err
		}
	} else if !errdefs.IsNotFound(err) {
		return err
	}
	if err := p.images(c); err != nil {
		return err
	}
	return p.tar.Close()
}

// podmanSpec is the OCI spec that Podman is to find.
func (c *Checkpoint) podmanSpec(o PodmanOptions) (*specs.Spec, error) {
	spec, linux := *c.Metadata.Spec, *c.Metadata.Spec.Linux
	linux.Namespaces, linux.CgroupsPath, spec.Mounts = nil, "", nil
	for _, ns := range c.Metadata.Spec.Linux.Namespaces {
		switch {
		case ns.Type == specs.PIDNamespace && ns.Path != "":
			return nil, fmt.Errorf("the container shares the PID namespace of its pod, which Podman has not: %w",
				errdefs.ErrFailedPrecondition)
		case ns.Type != specs.NetworkNamespace: // that one Podman replaces by its own, if it has a path
			ns.Path = ""
		}
		linux.Namespaces = append(linux.Namespaces, ns)
	}
	left := maps.Clone(o.Volumes)
	for _, m := range c.Metadata.Spec.Mounts {
		if dst := path.Clean(m.Destination); m.Type == "bind" || slices.Contains(m.Options, "bind") ||
			slices.Contains(m.Options, "rbind") {
			source, ok := o.Volumes[dst]
			delete(left, dst)
			if !ok {
				if slices.Contains(podmanMounts, dst) {
					continue
				}
				return nil, fmt.Errorf("the container has a volume at %s: say which directory Podman is to mount there: %w",
					quote(dst), errdefs.ErrFailedPrecondition)
			}
			m.Source = source
		}
		spec.Mounts = append(spec.Mounts, m)
	}
	for dst := range left {
		return nil, fmt.Errorf("the container has no volume at %s: %w", quote(dst), errdefs.ErrInvalidArgument)
	}
	spec.Annotations = maps.Clone(spec.Annotations)
	if spec.Annotations == nil {
		spec.Annotations = map[string]string{}
	}
	spec.Annotations[managerAnnotation] = "libpod"
	spec.Linux = &linux
	return &spec, nil
}

// podmanConfig is what of libpod.ContainerConfig has no useful default.
func (c *Checkpoint) podmanConfig(spec *specs.Spec, o PodmanOptions) (map[string]any, error) {
	var status struct {
		ImageID string `json:"image_id"`
	}
	if err := readJSON(c.root, metadata.StatusDumpFile, c.limits, &status); err != nil {
		return nil, err
	}
	id, ok := strings.CutPrefix(status.ImageID, "sha256:")
	if !ok || !imageID.MatchString(id) {
		return nil, fmt.Errorf("%s: image ID %s is none: Podman finds the base image by it: %w", metadata.StatusDumpFile,
			quote(status.ImageID), errdefs.ErrFailedPrecondition)
	}
	name := c.Metadata.Base.Reference
	if isID(name) {
		name = c.Metadata.Base.Name
	}
	if o.Runtime == "" {
		o.Runtime = "runc"
	}
	return map[string]any{
		"id": c.Metadata.ID, "name": c.Metadata.Name, "spec": spec, "runtime": o.Runtime,
		"rootfsImageID": id, "rootfsImageName": name, "RawImageName": c.Metadata.Base.Name,
		"createdTime": c.Metadata.CreatedAt, "logDriver": "k8s-file", "createNetNS": true, "networkMode": "bridge",
		"shmSize": 64 << 20, "stopSignal": 15, "stopTimeout": 10, "umask": "0022",
		"idMappingsOptions": map[string]bool{"HostUIDMapping": true, "HostGIDMapping": true},
	}, nil
}

// podmanWriter writes the archive.
type podmanWriter struct {
	ctx context.Context
	tar *tar.Writer
}

func (p *podmanWriter) json(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return p.file(name, data)
}

func (p *podmanWriter) file(name string, data []byte) error {
	if err := p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600,
		Size: int64(len(data))}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := p.tar.Write(data); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func (p *podmanWriter) copy(name string, f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o600,
		Size: info.Size()}); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if _, err := io.Copy(p.tar, io.LimitReader(f, info.Size())); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return p.ctx.Err()
}

// images copies the CRIU images.
func (p *podmanWriter) images(c *Checkpoint) error {
	dir, err := c.root.Open(metadata.CheckpointDirectory)
	if err != nil {
		return err
	}
	names, err := dir.Readdirnames(-1)
	if err := errors.Join(err, dir.Close()); err != nil {
		return err
	}
	if err := p.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: metadata.CheckpointDirectory + "/",
		Mode: 0o700}); err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		name = path.Join(metadata.CheckpointDirectory, name)
		f, _, err := openRegular(c.root, name)
		if err != nil {
			return err
		}
		if err := errors.Join(p.copy(name, f), f.Close()); err != nil {
			return err
		}
	}
	return nil
}
