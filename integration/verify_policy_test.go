package integration

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// raiseBounding gives every thread CAP_SYS_ADMIN in its bounding set.
func raiseBounding(e *imageEditor) {
	e.EachThread(func(_ uint32, core *criu_core.CoreEntry) {
		core.GetThreadCore().GetCreds().CapBnd[0] |= 1 << 21
	})
}

// TestVerifyAudit restores on a node that only audits what another one refuses, and finds it
// in the log and in the metric; the spec's own values are forced all the same.
func TestVerifyAudit(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	metrics := harness.WithConfig("[plugins.'io.containerd.server.v1.metrics']\n  address = '" + address + "'\n")
	n := harness.New(t, harness.WithRestoreConfig(allowArchives), metrics)
	g := newGrant(t, n)
	hostile := editImages(t, g.archive, raiseBounding)
	g.refuses(t, hostile, codes.PermissionDenied, "process 1", "CapBnd", "allowed")
	if got := metric(t, address, `containerd_cri_restore_findings_total{check="credentials"}`); got == "" || got == "0" {
		t.Errorf("findings: %q after a refusal", got)
	}
	requirePlugin(t, n, "ok", "verification strict")

	n.Reconfigure(harness.WithRestoreConfig(allowArchives+"\nverification = \"audit\""), metrics)
	requirePlugin(t, n, "ok", "verification audit")
	g.accepts(t, hostile, func(c *harness.Container) {
		requireStatus(t, c, map[string]string{"CapBnd": "00000000a82425fb"})
	})
	g.accepts(t, g.archive, nil)
	found := false
	for line := range strings.Lines(n.DaemonLog()) {
		found = found || strings.Contains(line, "strict") && strings.Contains(line, "would refuse") &&
			strings.Contains(line, "process 1")
	}
	if !found {
		t.Error("the log does not say what strict would refuse")
	}
	if got := metric(t, address, `containerd_cri_restore_findings_total{check="credentials"}`); got == "" || got == "0" {
		t.Errorf("findings: %q after an audit", got)
	}
}

// freeAddress is an address on which nothing listens.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// metric is the value of one of containerd's metrics, empty if there is none.
func metric(t *testing.T, address, name string) string {
	t.Helper()
	for line := range strings.Lines(fetch(t, "http://"+address+"/v1/metrics")) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// fetch gets a page of containerd's.
func fetch(t *testing.T, url string) string {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v", url, resp.Status, err)
	}
	return string(body)
}

// TestVerifyNoWindow changes an image between the verification and the start. Only an archive's
// can be written to: the view of an image is read-only.
func TestVerifyNoWindow(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	archive, counted := countingCheckpoint(t, n)
	pod := n.Pod(t)
	core := func() string {
		found, err := filepath.Glob(filepath.Join(n.Root(), "io.containerd.cri.v1.restore", "*", "archive", "checkpoint",
			"core-1.img"))
		if err != nil || len(found) != 1 {
			t.Fatalf("images: %q, %v", found, err)
		}
		return found[0]
	}
	t.Run("attack", func(t *testing.T) {
		n := n.In(t)
		before := n.Inventory(t)
		c := pod.Create("changed", archive)
		content, err := os.ReadFile(core())
		if err != nil {
			t.Fatal(err)
		}
		content[len(content)-1] ^= 1
		if err := os.WriteFile(core(), content, 0o600); err != nil {
			t.Fatal(err)
		}
		requireRefused(t, c.TryStart(), codes.FailedPrecondition, "changed since they were verified", archive,
			"create it again")
		c.Remove()
		forgetLog(t, c)
		n.RequireNoLeak(t, before)
	})
	t.Run("honest", func(t *testing.T) {
		c := pod.Create("same", archive)
		core()
		c.Start()
		requireContinues(t, c, counted)
	})
	t.Run("view of an image", func(t *testing.T) {
		c := pod.Create("view", imageOf(t, n, archive))
		found, err := filepath.Glob(filepath.Join(n.State(), "io.containerd.cri.v1.restore", "*", "view", "checkpoint",
			"core-1.img"))
		if err != nil || len(found) != 1 {
			t.Fatalf("images: %q, %v", found, err)
		}
		if f, err := os.OpenFile(found[0], os.O_WRONLY, 0); err == nil {
			f.Close()
			t.Errorf("%s can be written", found[0])
		}
		c.Start()
		requireContinues(t, c, counted)
	})
}

// TestPolicyPullBaseImages keeps a node from pulling what a checkpoint names.
func TestPolicyPullBaseImages(t *testing.T) {
	t.Parallel()
	n := newPullNode(t, harness.WithRestoreConfig(`pull_base_images = false`))
	_, repository, reference := n.base(t)
	checkpoint := n.checkpointOn(t, "docker.io/library/thing:1", reference)
	pod := n.Pod(t)
	refused(t, pod, checkpoint, codes.FailedPrecondition, reference, "not on this node", "pull_base_images")
	pushed, _ := pushedImageOf(t, n.Node, rebased(t, n.archive, "docker.io/library/thing:1", reference))
	n.Pull(pushed) // the checkpoint image itself may be pulled
	if got := n.front.got("/" + repository + "/"); len(got) > 0 {
		t.Errorf("the base image's registry was asked: %+v", got)
	}
	n.Pull(reference)
	restored(t, pod, checkpoint, n.counted)
}

// TestPolicyPodAnnotations asks for something by pod annotation, where the node hears it and where not.
func TestPolicyPodAnnotations(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	archive, counted := countingCheckpoint(t, n)
	asking := func(value string) *harness.Pod {
		return n.Pod(t, harness.PodAnnotation("org.criu.restore/tcp-connections", value))
	}
	deaf := asking("close")
	_, err := deaf.TryCreate("asking", archive)
	requireRefused(t, err, codes.PermissionDenied, "org.criu.restore/tcp-connections", "pod_annotations")
	ordinary(t, deaf, n.Image(harness.Busybox)).Remove()
	_, err = n.Pod(t, harness.PodAnnotation("org.criu.restore/wish", "x")).TryCreate("asking", archive)
	requireRefused(t, err, codes.InvalidArgument, "org.criu.restore/wish")

	n.Reconfigure(harness.WithRestoreConfig(allowArchives + "\npod_annotations = [\"tcp-connections\"]"))
	_, err = asking("keep").TryCreate("asking", archive)
	requireRefused(t, err, codes.InvalidArgument, `"keep"`)
	requireContinues(t, asking("close").Run("asking", archive), counted)
}

// TestPolicyBaseImages keeps a checkpoint from using another tenant's image that is on the node already,
// whatever it calls it, and from making the node ask a registry for one (T05, T06).
func TestPolicyBaseImages(t *testing.T) {
	t.Parallel()
	n := newPullNode(t)
	img, repository, private := n.base(t)
	allowed := "allowed-" + repository
	n.front.registry.Push(allowed+":1", img)
	n.Reconfigure(harness.WithRestoreConfig(`allowed_base_images = ["` + n.front.ref(allowed) + `*"]`))
	pod := n.Pod(t)

	t.Run("absent", func(t *testing.T) {
		refused(t, pod, n.checkpointOn(t, "docker.io/library/thing:1", private), codes.PermissionDenied, private,
			"allowed_base_images")
		if got := n.front.got("/" + repository + "/"); len(got) > 0 {
			t.Errorf("the registry was asked: %+v", got)
		}
	})
	t.Run("on the node", func(t *testing.T) {
		n.Pull(private)
		refused(t, pod, n.checkpointOn(t, "docker.io/library/thing:2", private), codes.PermissionDenied, private,
			"allowed_base_images")
		disguised := n.front.ref(allowed + "@" + digestOf(t, img)) // what the checkpoint calls it does not count
		refused(t, pod, n.checkpointOn(t, "docker.io/library/thing:3", disguised), codes.PermissionDenied,
			"allowed_base_images")
	})
	t.Run("honest", func(t *testing.T) {
		reference := n.front.ref(allowed + "@" + digestOf(t, img))
		n.Pull(reference)
		restored(t, pod, n.checkpointOn(t, "docker.io/library/thing:4", reference), n.counted)
	})
}
