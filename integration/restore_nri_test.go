package integration

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// observer is an NRI plugin that adjusts containers and writes down the hooks.
type observer struct {
	mu    sync.Mutex
	hooks map[string][]string // by container ID
}

func (o *observer) saw(hook string, c *api.Container) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hooks[c.GetId()] = append(o.hooks[c.GetId()], hook)
}

func (o *observer) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment,
	[]*api.ContainerUpdate, error) {
	o.saw("create "+c.GetName(), c)
	adjust := &api.ContainerAdjustment{}
	adjust.AddEnv("FROM_NRI", "yes")
	return adjust, nil, nil
}

func (o *observer) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	o.saw("created", c)
	return nil
}

func (o *observer) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	o.saw("start", c)
	return nil
}

func (o *observer) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	o.saw("started", c)
	return nil
}

func (o *observer) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate,
	error) {
	o.saw("stop", c)
	return nil, nil
}

func (o *observer) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	o.saw("remove", c)
	return nil
}

// TestRestoreNRI runs an NRI plugin, which must see a restored container's whole life and be
// able to adjust it (point 5).
func TestRestoreNRI(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	name := imageOf(t, n, archive)

	o := &observer{hooks: map[string][]string{}}
	plugin, err := stub.New(o, stub.WithSocketPath(filepath.Join(filepath.Dir(n.Socket()), "nri.sock")),
		stub.WithPluginName("observer"), stub.WithPluginIdx("10"), stub.WithOnClose(func() {}))
	if err != nil {
		t.Fatal(err)
	}
	if err := plugin.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer plugin.Stop()

	pod := n.Pod(t)
	c := pod.Run("restored", name)
	requireContinues(t, c, counted)
	if got := strings.TrimSpace(c.Exec("/bin/sh", "-c", "echo $FROM_NRI")); got != "yes" {
		t.Errorf("the plugin's variable in exec: got %q, want yes", got)
	}
	c.Stop(0)
	c.Remove()
	o.mu.Lock()
	defer o.mu.Unlock()
	want := []string{"create restored", "created", "start", "started", "stop", "remove"}
	if got := o.hooks[c.ID]; !slices.Equal(got, want) {
		t.Errorf("hooks: got %v, want %v", got, want)
	}
}
