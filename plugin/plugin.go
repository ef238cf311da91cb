// Package plugin registers io.containerd.cri.v1.restore. A custom build of
// containerd imports it for that side effect.
package plugin

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	containersapi "github.com/containerd/containerd/api/services/containers/v1"
	api "github.com/containerd/containerd/api/services/tasks/v1"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/plugins/services"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/cri-restore/cri-restore/internal/cgroup"
	"github.com/cri-restore/cri-restore/internal/cri"
	"github.com/cri-restore/cri-restore/internal/dump"
	"github.com/cri-restore/cri-restore/internal/hook"
	"github.com/cri-restore/cri-restore/internal/origin"
	"github.com/cri-restore/cri-restore/internal/recovery"
	"github.com/cri-restore/cri-restore/internal/restore"
	"github.com/cri-restore/cri-restore/internal/runc"
	"github.com/cri-restore/cri-restore/internal/task"
	"github.com/cri-restore/cri-restore/internal/turn"
	"github.com/cri-restore/cri-restore/internal/upstream"
)

// ID is the plugin's ID; its type is CRIServicePlugin, io.containerd.cri.v1.
const ID = "restore"

func init() {
	config := DefaultConfig()
	registry.Register(&plugin.Registration{
		Type: plugins.CRIServicePlugin,
		ID:   ID,
		Requires: []plugin.Type{
			plugins.EventPlugin, plugins.LeasePlugin, plugins.MetadataPlugin, plugins.MountManagerPlugin,
			plugins.SandboxStorePlugin, plugins.ServicePlugin, plugins.ShimPlugin, plugins.TransferPlugin,
		},
		Config: &config,
		InitFn: initRestore,
	})
	if err := hook.CRI(wanted, decorate); err != nil {
		panic(err) // the build has no CRI plugin
	}
	if err := hook.Tasks(func(_ *plugin.InitContext, inner api.TasksClient) (api.TasksClient, error) {
		return task.New(inner), nil
	}); err != nil {
		panic(err) // the build has no task service
	}
	if err := hook.Containers(func(inner containersapi.ContainersClient) containersapi.ContainersClient {
		return &origin.Containers{ContainersClient: inner}
	}); err != nil {
		panic(err) // the build has no service of containers
	}
}

// initRestore makes the parts of a node and binds the task service to them. On a node that
// cannot restore, the plugin is skipped and containerd goes on without; only
// containers that are still to be restored are kept from starting afresh.
func initRestore(ic *plugin.InitContext) (_ any, retErr error) {
	defer recovery.Into(ic.Context, &retErr, "initialise")
	var found *parts
	err := recovery.Do(ic.Context, "initialise", func() (err error) {
		found, err = newParts(ic)
		return err
	})
	if err == nil {
		return found, nil
	}
	client, tasks, serr := taskService(ic)
	if serr != nil {
		return nil, errors.Join(err, serr)
	}
	tasks.Guard(client.ContainerService(), err)
	db, serr := ic.GetSingle(plugins.MetadataPlugin)
	if serr != nil {
		return nil, errors.Join(err, serr)
	}
	reconcile(ic, newDumps(ic, client, tasks, db.(*metadata.DB)))
	return nil, err
}

// taskService returns the task service, which this package has decorated.
func taskService(ic *plugin.InitContext) (*containerd.Client, *task.Tasks, error) {
	client, err := containerd.New("", containerd.WithDefaultNamespace(upstream.Namespace),
		containerd.WithInMemoryServices(ic))
	if err != nil {
		return nil, nil, err
	}
	service, err := ic.GetByID(plugins.ServicePlugin, services.TasksService)
	if err != nil {
		return nil, nil, err
	}
	tasks, ok := service.(*task.Tasks)
	if !ok {
		return nil, nil, fmt.Errorf("the task service is not decorated but a %T: %w", service, errdefs.ErrNotImplemented)
	}
	return client, tasks, nil
}

// newDumps returns what takes checkpoints, as yet without the snapshotters.
func newDumps(ic *plugin.InitContext, client *containerd.Client, tasks *task.Tasks, meta *metadata.DB) *dump.Store {
	state := ic.Properties[plugins.PropertyStateDir]
	return &dump.Store{Tasks: tasks, Leases: client.LeasesService(), Transact: meta.Update, Freeze: cgroup.Freeze,
		Thaw: cgroup.Thaw, Frozen: cgroup.Frozen, Bundles: upstream.Bundles(state), State: state}
}

// reconcile ends the checkpoints that an earlier containerd was taking, also on a node that does not restore any more:
// its containers would stay frozen.
func reconcile(ic *plugin.InitContext, dumps *dump.Store) {
	ctx := namespaces.WithNamespace(ic.Context, upstream.Namespace)
	if err := recovery.Do(ctx, "reconcile checkpoints", func() error { return dumps.Reconcile(ctx) }); err != nil {
		log.G(ic.Context).WithError(err).Warn("some of what cut-off checkpoints had left could not be put right")
	}
}

// parts are what a node is made of, which is whole only when the CRI plugin's configuration is known, after this
// plugin.
type parts struct {
	runcs *runc.Binaries
	node  func(registries func() string, noCRIU bool) *cri.Node
}

func newParts(ic *plugin.InitContext) (*parts, error) {
	ic.Meta.Exports["version"] = ownVersion() // of a plugin that is skipped too
	config := ic.Config.(*Config)
	root, state := ic.Properties[plugins.PropertyRootDir], ic.Properties[plugins.PropertyStateDir]
	s, err := config.validate(root)
	if err != nil {
		return nil, err
	}
	if !config.Enable {
		return nil, fmt.Errorf("restore is turned off by enable = false: %w", plugin.ErrSkipPlugin)
	}
	if err := supported(ic); err != nil {
		return nil, err
	}
	able := abilities(ic.Context, ic.Meta.Exports["criu_path"])
	pages := lazyPages(ic, config)
	client, tasks, err := taskService(ic)
	if err != nil {
		return nil, err
	}
	db, err := ic.GetSingle(plugins.MetadataPlugin)
	if err != nil {
		return nil, err
	}
	meta := db.(*metadata.DB)
	snapshotters := meta.Snapshotters()
	store := &restore.Store{
		Containers:  client.ContainerService(),
		Leases:      client.LeasesService(),
		Transact:    meta.Update,
		Snapshotter: func(name string) snapshots.Snapshotter { return snapshotters[name] },
		Dirs:        restore.Dirs{Root: root, State: state},
		Bundles:     upstream.Bundles(state),
		Logs:        restore.LogKeeper{Dir: s.failedLogs, Max: config.FailedLogs},
		Limits:      s.limits,
		CRIUConfig:  config.CRIUConfig,
		Guard:       ic.Meta.Exports["guard_path"],
		Audit:       config.Verification == audit,
		Pages:       pages,
		Runc:        &runc.Binaries{Path: shimPath(ic)},
		Turns:       turn.New(config.MaxConcurrentRestores),
	}
	dumps := newDumps(ic, client, tasks, meta)
	dumps.Snapshotter = store.Snapshotter
	reconcile(ic, dumps)
	exchange, err := ic.GetSingle(plugins.EventPlugin)
	if err != nil {
		return nil, err
	}
	if err := tasks.Bind(namespaces.WithNamespace(ic.Context, upstream.Namespace), store,
		exchange.(events.Publisher)); err != nil {
		return nil, err
	}
	ic.Meta.Exports["verification"] = config.Verification
	ic.Meta.Exports["max_concurrent_restores"] = strconv.Itoa(store.Turns.Limit())
	ic.Meta.Exports["allow_archives"] = fmt.Sprint(config.AllowArchives)
	names := slices.Sorted(maps.Keys(snapshotters))
	return &parts{runcs: store.Runc, node: func(registries func() string, noCRIU bool) *cri.Node {
		return &cri.Node{
			Client:              client,
			Able:                able,
			Snapshotters:        names,
			Restores:            store,
			Dumps:               dumps,
			NoCRIU:              noCRIU,
			Policy:              s.policy,
			Limits:              s.limits,
			PullTimeout:         s.pullTimeout,
			NeverPull:           !config.PullBaseImages,
			RegistryDirs:        registries,
			Audit:               config.Verification == audit,
			VerificationTimeout: s.verifying,
			CommandTimeout:      s.command,
			DisableMPTCP:        config.DisableMPTCP,
		}
	}}, nil
}
