// Package harness starts real containerd nodes for the tests: a daemon with its own
// root, state, socket, CNI network, runc state, cgroups and image registry, and an
// inventory that fails the test for everything that it leaves behind.
//
//	func TestSomething(t *testing.T) {
//		n := harness.New(t, harness.WithRestoreConfig(`allow_archives = true`))
//		pod := n.Pod(t)
//		c := pod.Run("counter", n.Image(harness.Busybox), harness.Counting())
//		c.WaitCount(5)
//		archive := c.Checkpoint("")
//		before := n.Inventory(t)
//		_, err := n.Pod(t).TryCreate("bad", archive+".gone")
//		...
//		n.RequireNoLeak(t, before)
//	}
//
// Every function takes the test, or belongs to an object that was made for one, and
// fails that test; the variants named Try return the error instead. Missing programs
// fail a test too and never skip it. Nothing must be closed: pods go with the test
// they were made for; at the node's end all pods and containers, and the images pulled
// meanwhile, are removed through CRI, and what is then left is a leak.
//
// # Node
//
//	New(t, opts...) *Node                   Require(t) *Tools    Repo() (string, error)
//	WithBinary(path)  WithConfig(toml)  WithRestoreConfig(toml)  WithEnv("K=v"...)  WithLogLevel(level)
//	WithSnapshotter("native")  WithRegistry(r)  WithRegistryAuth(user, password)  WithSharedRuncRoot()
//	WithCRIU(false)  WithOwnDisk()
//	n.Start() n.TryStart() n.Stop() n.Kill() n.Restart() n.DaemonPid() n.DaemonLog()
//	n.Disk("full"|"no inodes"|"read-only"|"snapshotter"|"")     // of a node WithOwnDisk
//	n.Reconfigure(opts...) n.TryReconfigure(opts...) error      // other options, and a restart
//	n.Runtime() n.Images() n.Client() n.Context()       // CRI, containerd; a context for both
//	n.Crictl(args...) n.TryCrictl(args...) n.Ctr(args...) n.TryCtr(args...)
//	n.Image(repository) n.Pull(ref) n.PullAs(ref, user, password) n.TryPull(...) n.ImageStatus(ref) n.RemoveImage(ref)
//	n.Dir() n.Root() n.State() n.HostsDir() n.RuncRoot() n.CgroupRoot() n.Socket() n.FailedLogDir()
//	n.ID() n.Registry() n.Tools()
//	n.In(t) *Node                                       // the same node for a subtest
//
// # Pod
//
//	n.Pod(t, opts...) *Pod    n.TryPod(t, opts...) (*Pod, error)
//	PodName PodNamespace PodUID PodLabel PodAnnotation PodLogDirectory PodCgroup PodHandler
//	PodHostNetwork() PodSharedPID() PodHostPID()
//	p.ID p.Config p.Node() p.Status() p.IP() p.Stop() p.Remove()
//
// # Container
//
//	p.Create(name, image, opts...) *Container   p.TryCreate(...) (*Container, error)   p.Run(...)  // Create and Start
//	Command(cmd...) Shell(script) Counting() Env Mount(host, path, readonly) Tty() Stdin() WorkingDir User(uid)
//	Privileged() ReadonlyRootfs() Security(func) MemoryLimit(bytes) Resources(func) Label Annotation Attempt LogPath
//	c.ID c.Config c.Pod c.Start() c.TryStart() c.Stop(grace) c.Remove() c.TryRemove()
//	c.Checkpoint(path) string   c.TryCheckpoint(path) error
//	c.Exec(cmd...) stdout   c.TryExec(cmd...) (stdout, stderr, exitCode, err)
//	c.Status() c.Info(&v) c.Stats() c.Pid() c.WaitExited() *runtime.ContainerStatus
//	c.Log() []string  c.LogLines() []LogLine  c.LogFile()
//	c.WaitLog(func(lines []string) bool) []string  c.WaitLine(text)  c.WaitCount(n) int  Count(lines) int
//
// # Registry
//
//	NewRegistry(t) *Registry    // a node without WithRegistry has one of its own
//	r.Host() r.Ref(repository) r.Push(repository, img) r.PushIndex(...) r.PushLayout(repository, dir)
//	r.RequireAuth(user, password) r.Delay(part, d) r.Hold(part) (release func()) r.ReleaseAll()
//	BusyboxImage() (v1.Image, error)
//	r.Requests(part) []Request  r.Downloads(part) int  r.ResetRequests()
//
// # Leaks
//
//	n.Inventory(t) Inventory    n.RequireNoLeak(t, baseline)    n.Baseline()    n.CgroupParents(names...)
//	inv.Diff(baseline) []string  inv.Keys(KindSnapshot) []string
//
// KEEP=1 in the environment keeps the nodes' folders, with containerd.log, after the
// test. CRI_RESTORE_BIN names another folder than bin/ for containerd, shim, ctr, crictl
// and runc; CRI_RESTORE_PREFIX is where make deps put CRIU; CNI_PATH is the plugins' folder.
// CRI_RESTORE_CGROUP_DRIVER=systemd is for a machine with systemd; the default is cgroupfs.
package harness
