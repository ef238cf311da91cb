package harness

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Container is a container of a Pod.
type Container struct {
	// ID is the container's ID.
	ID string
	// Config is what the container was created with.
	Config *runtime.ContainerConfig
	// Pod is the container's pod.
	Pod *Pod

	n *Node
	t testing.TB
}

// Create creates a container from an image (a reference or an ID).
func (p *Pod) Create(name, image string, opts ...ContainerOpt) *Container {
	p.t.Helper()
	c, err := p.TryCreate(name, image, opts...)
	if err != nil {
		p.t.Fatalf("harness: create container %s from %s: %v", name, image, err)
	}
	return c
}

// TryCreate is Create for containers that may fail; the error is the gRPC status.
func (p *Pod) TryCreate(name, image string, opts ...ContainerOpt) (*Container, error) {
	p.t.Helper()
	config := p.containerConfig(name, image, opts)
	ctx, cancel := callContext(p.t)
	defer cancel()
	resp, err := p.n.Runtime().CreateContainer(ctx, &runtime.CreateContainerRequest{
		PodSandboxId: p.ID, Config: config, SandboxConfig: p.Config,
	})
	if err != nil {
		return nil, err
	}
	return &Container{ID: resp.GetContainerId(), Config: config, Pod: p, n: p.n, t: p.t}, nil
}

// Run is Create and Start.
func (p *Pod) Run(name, image string, opts ...ContainerOpt) *Container {
	p.t.Helper()
	c := p.Create(name, image, opts...)
	c.Start()
	return c
}

// Start starts the container.
func (c *Container) Start() {
	c.t.Helper()
	if err := c.TryStart(); err != nil {
		c.t.Fatalf("harness: start container %s: %v", c.ID, err)
	}
}

// TryStart is Start for containers that may fail; the error is the gRPC status.
func (c *Container) TryStart() error {
	c.t.Helper()
	ctx, cancel := callContext(c.t)
	defer cancel()
	_, err := c.n.Runtime().StartContainer(ctx, &runtime.StartContainerRequest{ContainerId: c.ID})
	return err
}

// Stop stops the container: SIGTERM (or the image's signal), and SIGKILL after
// grace, rounded up to seconds.
func (c *Container) Stop(grace time.Duration) {
	c.t.Helper()
	ctx, cancel := callContext(c.t)
	defer cancel()
	seconds := int64((grace + time.Second - 1) / time.Second)
	if _, err := c.n.Runtime().StopContainer(ctx, &runtime.StopContainerRequest{ContainerId: c.ID,
		Timeout: seconds}); err != nil {
		c.t.Fatalf("harness: stop container %s: %v", c.ID, err)
	}
}

// Remove removes the container, running or not.
func (c *Container) Remove() {
	c.t.Helper()
	if err := c.TryRemove(); err != nil {
		c.t.Fatalf("harness: remove container %s: %v", c.ID, err)
	}
}

// TryRemove is Remove for containers that may fail.
func (c *Container) TryRemove() error {
	c.t.Helper()
	ctx, cancel := callContext(c.t)
	defer cancel()
	_, err := c.n.Runtime().RemoveContainer(ctx, &runtime.RemoveContainerRequest{ContainerId: c.ID})
	return err
}

// Checkpoint writes a checkpoint archive through CRI and returns its path. An
// empty path means a new file in Node.Dir.
func (c *Container) Checkpoint(path string) string {
	c.t.Helper()
	if path == "" {
		path = filepath.Join(c.n.Dir(), c.n.unique("checkpoint")+".tar")
	}
	if err := c.TryCheckpoint(path); err != nil {
		c.t.Fatalf("harness: checkpoint container %s: %v", c.ID, err)
	}
	return path
}

// TryCheckpoint is Checkpoint for containers that may fail.
func (c *Container) TryCheckpoint(path string) error {
	c.t.Helper()
	ctx, cancel := callContext(c.t)
	defer cancel()
	_, err := c.n.Runtime().CheckpointContainer(ctx,
		&runtime.CheckpointContainerRequest{ContainerId: c.ID, Location: path})
	return err
}

// Exec runs a command in the container and returns its standard output. A
// non-zero exit code fails the test.
func (c *Container) Exec(cmd ...string) string {
	c.t.Helper()
	stdout, stderr, code, err := c.TryExec(cmd...)
	if err == nil && code != 0 {
		err = fmt.Errorf("exit code %d: %s", code, bytes.TrimSpace([]byte(stderr)))
	}
	if err != nil {
		c.t.Fatalf("harness: exec %q in container %s: %v", cmd, c.ID, err)
	}
	return stdout
}

// TryExec is Exec for commands that may fail.
func (c *Container) TryExec(cmd ...string) (stdout, stderr string, exitCode int, err error) {
	c.t.Helper()
	ctx, cancel := callContext(c.t)
	defer cancel()
	resp, err := c.n.Runtime().ExecSync(ctx, &runtime.ExecSyncRequest{ContainerId: c.ID, Cmd: cmd, Timeout: 60})
	if err != nil {
		return "", "", 0, err
	}
	return string(resp.GetStdout()), string(resp.GetStderr()), int(resp.GetExitCode()), nil
}

// Status returns CRI's status of the container.
func (c *Container) Status() *runtime.ContainerStatus {
	c.t.Helper()
	return c.status(false).GetStatus()
}

// Info decodes the "info" of CRI's verbose status (`crictl inspect`) into v.
func (c *Container) Info(v any) {
	c.t.Helper()
	info := c.status(true).GetInfo()["info"]
	if err := json.Unmarshal([]byte(info), v); err != nil {
		c.t.Fatalf("harness: info of container %s: %v in %q", c.ID, err, info)
	}
}

func (c *Container) status(verbose bool) *runtime.ContainerStatusResponse {
	c.t.Helper()
	ctx, cancel := callContext(c.t)
	defer cancel()
	resp, err := c.n.Runtime().ContainerStatus(ctx, &runtime.ContainerStatusRequest{ContainerId: c.ID, Verbose: verbose})
	if err != nil {
		c.t.Fatalf("harness: status of container %s: %v", c.ID, err)
	}
	return resp
}

// Stats returns CRI's statistics of the container.
func (c *Container) Stats() *runtime.ContainerStats {
	c.t.Helper()
	ctx, cancel := callContext(c.t)
	defer cancel()
	resp, err := c.n.Runtime().ContainerStats(ctx, &runtime.ContainerStatsRequest{ContainerId: c.ID})
	if err != nil {
		c.t.Fatalf("harness: stats of container %s: %v", c.ID, err)
	}
	return resp.GetStats()
}

// Pid is the host's process ID of the container's first process.
func (c *Container) Pid() int {
	c.t.Helper()
	var info struct {
		Pid int `json:"pid"`
	}
	c.Info(&info)
	if info.Pid <= 0 {
		c.t.Fatalf("harness: container %s has no process (pid %d)", c.ID, info.Pid)
	}
	return info.Pid
}

// Container is the pod's container with an ID that the test knows from elsewhere.
func (p *Pod) Container(id string, config *runtime.ContainerConfig) *Container {
	return &Container{ID: id, Config: config, Pod: p, n: p.n, t: p.t}
}
