package harness

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
)

const (
	// tempPattern names the nodes' folders. It is short: a Unix socket's path has
	// at most 107 bytes, and containerd wants at most 38 for the shims' folder.
	tempPattern    = "crt-*"
	maxRootLen     = 36
	markerEnv      = "CRI_RESTORE_TEST_NODE"
	callTimeout    = 2 * time.Minute // kubelet's default for CRI calls
	reserveForExit = 45 * time.Second
)

// Node is one containerd with everything it needs, and shares nothing with any
// other: root, state, sockets, CNI network, runc state, cgroups and registry.
// The test that made it fails when anything is left behind at its end.
type Node struct {
	*node
	t testing.TB
}

// node is the part of a Node that all its views (Node.In) share.
type node struct {
	id       string
	dir      string
	tools    *Tools
	opts     options
	registry *Registry
	network  *network
	runcRoot string
	owner    *os.File
	covered  []string // directories that Disk has mounted on themselves

	mu       sync.Mutex
	daemon   *daemon
	conn     *grpc.ClientConn
	baseline Inventory
	parents  map[string]bool // cgroup parents that pods asked for, relative to Node.CgroupRoot
	counter  int
}

// New starts a node with the images Busybox and PauseImage pulled. When the test
// ends it removes all pods, containers and images that came later, compares the
// node with its state at the start, and fails the test on any leak.
func New(t testing.TB, opts ...Option) *Node {
	t.Helper()
	tools := Require(t)
	sweepOnce(t)
	o := defaultOptions()
	for _, opt := range opts {
		opt(&o)
	}
	//nolint:usetesting // t.TempDir's paths are too long for a socket, and are deleted without a look at mounts.
	dir, err := os.MkdirTemp("", tempPattern)
	if err != nil {
		t.Fatalf("harness: %v", err)
	}
	if len(dir) > maxRootLen {
		_ = os.Remove(dir)
		t.Fatalf("harness: %s is too long for the sockets below it: set TMPDIR to a shorter path", dir)
	}
	n := &Node{t: t, node: &node{
		id:       filepath.Base(dir),
		dir:      dir,
		tools:    tools,
		opts:     o,
		registry: o.registry,
		runcRoot: filepath.Join(dir, "runc"),
		parents:  map[string]bool{},
	}}
	if o.sharedRunc {
		n.runcRoot = defaultRuncRoot
	}
	// From here on something is there to be torn down, however far the set-up comes.
	t.Cleanup(n.teardown)
	if err := n.prepare(t); err != nil {
		t.Fatalf("harness: set up node %s: %v", n.id, err)
	}
	n.Start()
	for _, image := range []string{PauseImage, Busybox} {
		n.PullAs(n.Image(image), o.user, o.pass)
	}
	n.Baseline()
	return n
}

func (n *node) prepare(t testing.TB) error {
	var err error
	if n.owner, err = claim(n.dir); err != nil {
		return err
	}
	for _, sub := range []string{"cni", "cni-data", "hosts.d", "cdi", "tmp", "logs", "s", "nri/plugins", "nri/conf.d",
		"work"} {
		if err := os.MkdirAll(n.path(sub), 0o755); err != nil {
			return err
		}
	}
	if n.registry == nil {
		n.registry = NewRegistry(t)
		n.registry.RequireAuth(n.opts.user, n.opts.pass)
	}
	if n.network, err = newNetwork(n.id, n.path("cni"), n.path("cni-data"), n.tools.Portmap); err != nil {
		return err
	}
	if n.opts.ownDisk {
		if err := n.mountDisk(); err != nil {
			return err
		}
	}
	return n.writeConfig()
}

// In returns the same node for another test, usually a subtest: failures and
// clean-up of what is made through the view belong to that test.
func (n *Node) In(t testing.TB) *Node { return &Node{node: n.node, t: t} }

// ID is unique on the machine; it is part of every name the node takes.
func (n *Node) ID() string { return n.id }

// Dir is a folder for the test's own files. It goes with the node.
func (n *Node) Dir() string { return n.path("work") }

// Root is containerd's root, where what must survive a reboot lives.
func (n *Node) Root() string { return n.path("root") }

// State is containerd's state folder.
func (n *Node) State() string { return n.path("state") }

// HostsDir is the registry configuration folder ("hosts.d"), empty at the start.
func (n *Node) HostsDir() string { return n.path("hosts.d") }

// FailedLogDir is where the plugin keeps CRIU's logs of failed restores.
func (n *Node) FailedLogDir() string { return n.path("failed") }

// RuncRoot is where runc keeps the state of the node's containers.
func (n *Node) RuncRoot() string { return filepath.Join(n.runcRoot, k8sNamespace) }

// CgroupRoot is the cgroup, below each controller's mount, that holds the node's pods.
func (n *Node) CgroupRoot() string { return cgroupOf(n.id) }

// Socket is the path of containerd's and CRI's Unix socket.
func (n *Node) Socket() string { return n.socket() }

// Registry is the node's registry.
func (n *Node) Registry() *Registry { return n.registry }

// Tools are the programs that the node runs.
func (n *Node) Tools() *Tools { return n.tools }

// Image returns the full reference of a repository (with tag or digest) of the
// node's registry, for instance n.Image(harness.Busybox).
func (n *Node) Image(name string) string { return n.registry.Ref(name) }

func (n *node) path(elem ...string) string {
	return filepath.Join(append([]string{n.dir}, elem...)...)
}

func (n *node) socket() string { return n.path("c.sock") }

// unique returns a name that no other object of the node has.
func (n *node) unique(prefix string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counter++
	return fmt.Sprintf("%s-%d", prefix, n.counter)
}

// callContext returns the context for one call to the daemon. It ends early
// enough before `go test -timeout` strikes for the clean-up to run, and it is
// usable in clean-up functions, where t.Context is already cancelled.
func callContext(t testing.TB) (context.Context, context.CancelFunc) {
	return deadlineContext(t, callTimeout)
}

func deadlineContext(t testing.TB, timeout time.Duration) (context.Context, context.CancelFunc) {
	ctx := t.Context()
	if errors.Is(ctx.Err(), context.Canceled) {
		return context.WithTimeout(context.WithoutCancel(ctx), timeout)
	}
	if d, ok := t.(interface{ Deadline() (time.Time, bool) }); ok {
		if deadline, ok := d.Deadline(); ok {
			if left := time.Until(deadline) - reserveForExit; left < timeout {
				timeout = max(left, time.Second)
			}
		}
	}
	return context.WithTimeout(ctx, timeout)
}
