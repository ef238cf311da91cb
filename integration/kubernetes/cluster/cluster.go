package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// Node is the name of the cluster's node. The API server reaches the kubelet by it.
const Node = "localhost"

// Namespace is where the pods are that name no other.
const Namespace = "default"

// Cluster is a Kubernetes of one node.
type Cluster struct {
	// Node is the containerd below.
	Node *harness.Node

	dir       string
	bin       string
	keys      *keys
	kubectl   string // path
	config    string // kubectl's configuration
	apiserver *process
	etcd      *process
	kubelet   *process
	ports     ports
	settings  map[string]any // the kubelet's configuration
	base      map[string]any // the same as New left it
}

type ports struct{ etcd, peer, apiserver, kubelet int }

// New starts a cluster whose kubelet uses the node's containerd. When the test ends it deletes all
// pods, waits for the kubelet to be done with them, and fails the test for what is left. The node's own
// comparison follows.
func New(t testing.TB, n *harness.Node, change ...func(config map[string]any)) *Cluster {
	t.Helper()
	c := &Cluster{Node: n, dir: filepath.Join(n.Dir(), "kubernetes"), bin: n.Tools().Bin}
	for _, name := range []string{"etcd", "kube-apiserver", "kubelet", "kubectl", "checkpoint-image"} {
		if _, err := os.Stat(filepath.Join(c.bin, name)); err != nil {
			t.Fatalf("cluster: %v: run make build build-kubernetes", err)
		}
	}
	c.kubectl = filepath.Join(c.bin, "kubectl")
	for _, sub := range []string{"etcd", "kubelet", "manifests", "pods", "plugins", "home"} {
		if err := os.MkdirAll(filepath.Join(c.dir, sub), 0o700); err != nil {
			t.Fatalf("cluster: %v", err)
		}
	}
	var err error
	if c.keys, err = newKeys(filepath.Join(c.dir, "keys")); err != nil {
		t.Fatalf("cluster: %v", err)
	}
	if c.config, err = c.writeKubeconfig("admin"); err != nil {
		t.Fatalf("cluster: %v", err)
	}
	if err := errors.Join(sweepLogLinks(), makeCgroup(n.CgroupRoot())); err != nil {
		t.Fatalf("cluster: %v", err)
	}
	// The kubelet's, by class of service. Some it makes only with the first pod.
	n.CgroupParents("kubepods", "kubepods/burstable", "kubepods/besteffort")
	restore, err := rememberSysctls()
	if err != nil {
		t.Fatalf("cluster: %v", err)
	}
	// From here on something is there to be torn down.
	t.Cleanup(func() {
		c.teardown(t)
		if err := restore(); err != nil {
			t.Errorf("cluster: %v", err)
		}
	})
	c.startEtcd(t)
	c.startAPIServer(t)
	c.makeDefaults(t)
	c.settings = c.kubeletSettings()
	for _, f := range change {
		f(c.settings)
	}
	c.base = clone(c.settings)
	c.StartKubelet(t)
	n.Baseline()
	return c
}

// path is below the cluster's own folder.
func (c *Cluster) path(elem ...string) string {
	return filepath.Join(append([]string{c.dir}, elem...)...)
}

// ManifestsDir is where the kubelet looks for static pods.
func (c *Cluster) ManifestsDir() string { return c.path("manifests") }

// KubeletDir is the kubelet's root directory.
func (c *Cluster) KubeletDir() string { return c.path("kubelet") }

// PodLogsDir is where the kubelet has the containers' logs.
func (c *Cluster) PodLogsDir() string { return c.path("pods") }

func (c *Cluster) teardown(t testing.TB) {
	t.Helper()
	if t.Failed() {
		c.explain(t)
	}
	if c.kubelet.running() && c.apiserver.running() {
		c.removePods(t)
	}
	for _, p := range []*process{c.kubelet, c.apiserver, c.etcd} {
		if err := p.end(syscall.SIGTERM); err != nil {
			t.Errorf("cluster: %v", err)
		}
	}
}

// removePods deletes all pods, the static ones too, and checks that the kubelet leaves nothing.
func (c *Cluster) removePods(t testing.TB) {
	t.Helper()
	manifests, err := filepath.Glob(filepath.Join(c.ManifestsDir(), "*"))
	if err != nil {
		t.Errorf("cluster: %v", err)
	}
	for _, name := range manifests {
		if err := os.Remove(name); err != nil {
			t.Errorf("cluster: %v", err)
		}
	}
	if _, err := c.TryKubectl(t, "delete", "pods", "--all", "--all-namespaces", "--grace-period=1",
		"--timeout=90s"); err != nil {
		t.Errorf("cluster: %v", err)
	}
	left := func() []string { return c.leftovers(t) }
	if !eventually(garbageTimeout, func() bool { return len(left()) == 0 }) {
		t.Errorf("cluster: without pods, the kubelet leaves:\n  %s", strings.Join(left(), "\n  "))
	}
}

// logLinks returns the links to logs that are of interest. The kubelet makes them there, whatever its configuration
// says.
func logLinks(ofInterest func(target string) bool) []string {
	var found []string
	links, _ := filepath.Glob("/var/log/containers/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && ofInterest(target) {
			found = append(found, link)
		}
	}
	return found
}

// sweepLogLinks removes the links of tests that were killed, whose folders are gone: the harness has swept them.
func sweepLogLinks() error {
	var errs []error
	for _, link := range logLinks(func(target string) bool {
		below, ok := strings.CutPrefix(target, os.TempDir()+"/")
		node, _, _ := strings.Cut(below, "/")
		if !ok || !strings.HasPrefix(node, "crt-") {
			return false
		}
		_, err := os.Stat(filepath.Join(os.TempDir(), node))
		return errors.Is(err, os.ErrNotExist)
	}) {
		errs = append(errs, os.Remove(link))
	}
	return errors.Join(errs...)
}

// leftovers lists what there must not be when all pods are deleted.
func (c *Cluster) leftovers(t testing.TB) []string {
	t.Helper()
	var left []string
	for _, dir := range []string{filepath.Join(c.KubeletDir(), "pods"), c.PodLogsDir()} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			left = append(left, err.Error())
		}
		for _, entry := range entries {
			left = append(left, filepath.Join(dir, entry.Name()))
		}
	}
	left = append(left, logLinks(func(target string) bool { return strings.HasPrefix(target, c.dir+"/") })...)
	if out := strings.TrimSpace(c.Node.In(t).Crictl("pods", "-q")); out != "" {
		left = append(left, "pod sandboxes "+strings.ReplaceAll(out, "\n", " "))
	}
	return left
}
