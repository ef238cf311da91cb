package harness

import "time"

// Option changes how a node is set up.
type Option func(*options)

type options struct {
	binary       string
	restore      []string
	config       []string
	env          []string
	snapshotter  string
	logLevel     string
	user, pass   string
	registry     *Registry
	sharedRunc   bool
	withoutCRIU  bool
	ownDisk      bool
	startTimeout time.Duration
}

func defaultOptions() options {
	return options{snapshotter: "overlayfs", logLevel: "debug", startTimeout: time.Minute}
}

// WithBinary starts the containerd at path (a stock build, a -race build) instead
// of the one in bin/. Shim, runc and CRIU stay those of bin/.
func WithBinary(path string) Option { return func(o *options) { o.binary = path } }

// WithRestoreConfig adds keys to [plugins.'io.containerd.cri.v1.restore'].
// snippet is TOML below that table, for instance `allow_archives = true`.
// Later snippets win.
func WithRestoreConfig(snippet string) Option {
	return func(o *options) { o.restore = append(o.restore, snippet) }
}

// WithConfig merges a TOML snippet, written from the top of containerd's
// configuration, into the node's. Tables are merged, other values replaced.
func WithConfig(snippet string) Option {
	return func(o *options) { o.config = append(o.config, snippet) }
}

// WithEnv adds NAME=value to the daemon's environment, which shims, runc and CRIU inherit.
func WithEnv(kv ...string) Option { return func(o *options) { o.env = append(o.env, kv...) } }

// WithCRIU says whether the node finds a CRIU, which it does by default. It is a
// switch, so that Reconfigure can install and remove it.
func WithCRIU(found bool) Option { return func(o *options) { o.withoutCRIU = !found } }

// WithSnapshotter selects "overlayfs" (the default) or "native".
func WithSnapshotter(name string) Option { return func(o *options) { o.snapshotter = name } }

// WithLogLevel sets containerd's log level, "debug" by default. Benchmarks want "info".
func WithLogLevel(level string) Option { return func(o *options) { o.logLevel = level } }

// WithRegistry makes the node use a registry that the test made with NewRegistry,
// so that two nodes can share one.
func WithRegistry(r *Registry) Option { return func(o *options) { o.registry = r } }

// WithRegistryAuth makes the node's own registry demand this user and password.
// The images of the harness are pulled with them; see Node.PullAs for others.
func WithRegistryAuth(user, password string) Option {
	return func(o *options) { o.user, o.pass = user, password }
}

// WithOwnDisk puts containerd's root and state on a file system of the node's own, a tmpfs, which Disk changes.
func WithOwnDisk() Option { return func(o *options) { o.ownDisk = true } }

// WithSharedRuncRoot leaves runc's state in its default place, /run/containerd/runc,
// instead of giving the node one of its own.
func WithSharedRuncRoot() Option { return func(o *options) { o.sharedRunc = true } }
