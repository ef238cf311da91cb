package harness

import (
	"fmt"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerOpt changes a container's configuration before it is created. Whatever
// has no option here is set with a function of the test's own.
type ContainerOpt func(*runtime.ContainerConfig)

func (p *Pod) containerConfig(name, image string, opts []ContainerOpt) *runtime.ContainerConfig {
	pod := p.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	config := &runtime.ContainerConfig{
		Metadata:    &runtime.ContainerMetadata{Name: name},
		Image:       &runtime.ImageSpec{Image: image, UserSpecifiedImage: image},
		Labels:      map[string]string{},
		Annotations: map[string]string{},
		Linux: &runtime.LinuxContainerConfig{
			Resources: &runtime.LinuxContainerResources{},
			SecurityContext: &runtime.LinuxContainerSecurityContext{
				// kubelet sends the pod's namespaces with every container.
				NamespaceOptions: &runtime.NamespaceOption{Network: pod.GetNetwork(), Pid: pod.GetPid(), Ipc: pod.GetIpc()},
			},
		},
	}
	for _, opt := range opts {
		opt(config)
	}
	setDefaults(config.Labels, map[string]string{
		"io.kubernetes.pod.name":       p.Config.GetMetadata().GetName(),
		"io.kubernetes.pod.namespace":  p.Config.GetMetadata().GetNamespace(),
		"io.kubernetes.pod.uid":        p.Config.GetMetadata().GetUid(),
		"io.kubernetes.container.name": config.Metadata.Name,
	})
	if config.LogPath == "" {
		config.LogPath = fmt.Sprintf("%s_%d.log", config.Metadata.Name, config.Metadata.Attempt)
	}
	return config
}

// Command replaces the image's entrypoint and arguments.
func Command(cmd ...string) ContainerOpt {
	return func(c *runtime.ContainerConfig) { c.Command, c.Args = cmd, nil }
}

// Shell runs a script with busybox' shell.
func Shell(script string) ContainerOpt { return Command("/bin/sh", "-c", script) }

// Counting prints "count 1", "count 2" and so on, ten lines a second; Count reads it back.
func Counting() ContainerOpt {
	return Shell(`i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`)
}

// Env sets a variable.
func Env(key, value string) ContainerOpt {
	return func(c *runtime.ContainerConfig) {
		c.Envs = append(c.Envs, &runtime.KeyValue{Key: key, Value: []byte(value)})
	}
}

// Mount binds a path of the host into the container.
func Mount(hostPath, containerPath string, readonly bool) ContainerOpt {
	return func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: hostPath, ContainerPath: containerPath, Readonly: readonly})
	}
}

// Tty gives the container a terminal.
func Tty() ContainerOpt { return func(c *runtime.ContainerConfig) { c.Tty = true } }

// Stdin keeps the container's standard input open.
func Stdin() ContainerOpt { return func(c *runtime.ContainerConfig) { c.Stdin = true } }

// WorkingDir sets the working directory.
func WorkingDir(dir string) ContainerOpt {
	return func(c *runtime.ContainerConfig) { c.WorkingDir = dir }
}

// User runs the container as this uid.
func User(uid int64) ContainerOpt {
	return Security(func(s *runtime.LinuxContainerSecurityContext) { s.RunAsUser = &runtime.Int64Value{Value: uid} })
}

// Privileged makes the container privileged; its pod must be privileged too.
func Privileged() ContainerOpt {
	return Security(func(s *runtime.LinuxContainerSecurityContext) { s.Privileged = true })
}

// ReadonlyRootfs makes the container's root file system read-only.
func ReadonlyRootfs() ContainerOpt {
	return Security(func(s *runtime.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true })
}

// Security changes the container's security context.
func Security(change func(*runtime.LinuxContainerSecurityContext)) ContainerOpt {
	return func(c *runtime.ContainerConfig) { change(c.Linux.SecurityContext) }
}

// MemoryLimit limits the container's memory, in bytes.
func MemoryLimit(bytes int64) ContainerOpt {
	return Resources(func(r *runtime.LinuxContainerResources) { r.MemoryLimitInBytes = bytes })
}

// Resources changes the container's limits.
func Resources(change func(*runtime.LinuxContainerResources)) ContainerOpt {
	return func(c *runtime.ContainerConfig) { change(c.Linux.Resources) }
}

// Label adds a label.
func Label(key, value string) ContainerOpt {
	return func(c *runtime.ContainerConfig) { c.Labels[key] = value }
}

// Annotation adds an annotation.
func Annotation(key, value string) ContainerOpt {
	return func(c *runtime.ContainerConfig) { c.Annotations[key] = value }
}

// Attempt sets kubelet's restart count, which is part of the container's reserved name.
func Attempt(attempt uint32) ContainerOpt {
	return func(c *runtime.ContainerConfig) { c.Metadata.Attempt = attempt }
}

// LogPath sets the log's path relative to the pod's log directory.
func LogPath(path string) ContainerOpt {
	return func(c *runtime.ContainerConfig) { c.LogPath = path }
}
