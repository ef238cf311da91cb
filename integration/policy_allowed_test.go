package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestPolicyNamespaces restores in pods of namespaces that may and may not.
func TestPolicyNamespaces(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(`allowed_namespaces = ["team-*"]`),
		harness.WithRestoreConfig(allowArchives))
	archive, counted := countingCheckpoint(t, n)
	image := imageOf(t, n, archive)
	for _, checkpoint := range []string{image, archive} {
		for _, namespace := range []string{"default", "team", "kube-system", "a-team-b"} {
			pod := n.Pod(t, harness.PodNamespace(namespace))
			refused(t, pod, checkpoint, codes.PermissionDenied, namespace, "allowed_namespaces")
			pod.Remove()
		}
		pod := n.Pod(t, harness.PodNamespace("team-a"))
		restored(t, pod, checkpoint, counted)
		pod.Remove()
	}
	pod := n.Pod(t)
	ordinary(t, pod, n.Image(harness.Busybox))

	n.Reconfigure(harness.WithRestoreConfig(`allowed_namespaces = []`))
	refused(t, n.Pod(t, harness.PodNamespace("team-a")), image, codes.PermissionDenied, "team-a", "allowed_namespaces")
	n.Reconfigure(harness.WithRestoreConfig(`allowed_namespaces = ["default"]`))
	restored(t, pod, image, counted)
}

// TestPolicyImages restores from images that may be restored and others, by every name.
func TestPolicyImages(t *testing.T) {
	t.Parallel()
	node := newPullNode(t)
	pod := node.Pod(t)
	// pushed puts a checkpoint image that nothing else is into the node's registry, with
	// a base that the node lacks.
	pushed := func(t *testing.T, n *pullNode, repository string) (tag, digest, id, base string) {
		t.Helper()
		_, base, reference := n.base(t)
		img := checkpointImage(t, rebased(t, n.archive, "base:1", reference))
		digest = n.Registry().Push(repository, img)
		return n.Image(repository), digest, idOf(t, img), base
	}
	allow := func(patterns ...string) {
		t.Helper()
		node.Reconfigure(harness.WithRestoreConfig(fmt.Sprintf("allowed_images = [%s]", strings.Join(patterns, ", "))))
	}
	quote := func(s string) string { return fmt.Sprintf("%q", s) }

	t.Run("tag", func(t *testing.T) {
		allow(quote(node.Image("good/**")))
		n := node.sub(t)
		good, goodDigest, goodID, _ := pushed(t, n, "good/team/app:1")
		bad, badDigest, badID, badBase := pushed(t, n, "bad/app:1")
		n.Pull(good)
		n.Pull(bad)
		if got := n.front.got("/" + badBase + "/"); len(got) > 0 {
			t.Errorf("the base of an image that may not be restored was pulled: %v", got)
		}
		for _, ref := range []string{bad, badDigest, badID} {
			refused(t, pod, ref, codes.PermissionDenied, ref, "allowed_images")
		}
		for _, ref := range []string{good, goodDigest, goodID} {
			restored(t, pod, ref, n.counted).Remove()
		}
		// What the user has asked for is told, and decides nothing.
		_, err := pod.TryCreate("spoofed", badID, func(c *runtime.ContainerConfig) { c.Image.UserSpecifiedImage = good })
		requireRefused(t, err, codes.PermissionDenied, "allowed_images")
		ordinary(t, pod, n.Image(harness.Busybox)).Remove()
	})
	t.Run("digest", func(t *testing.T) {
		n := node.sub(t)
		good, goodDigest, goodID, _ := pushed(t, n, "pinned:1")
		bad, badDigest, badID, _ := pushed(t, n, "pinned:2")
		allow(quote(goodDigest))
		n.Pull(good)
		n.Pull(bad)
		for _, ref := range []string{bad, badDigest, badID} {
			refused(t, pod, ref, codes.PermissionDenied, ref, "allowed_images")
		}
		for _, ref := range []string{good, goodDigest, goodID} {
			restored(t, pod, ref, n.counted).Remove()
		}
	})
	t.Run("ID", func(t *testing.T) {
		n := node.sub(t)
		good, _, goodID, _ := pushed(t, n, "identified:1")
		bad, _, badID, _ := pushed(t, n, "identified:2")
		allow(quote(goodID))
		n.Pull(good)
		n.Pull(bad)
		refused(t, pod, badID, codes.PermissionDenied, badID, "allowed_images")
		restored(t, pod, good, n.counted).Remove()
	})
	t.Run("none", func(t *testing.T) {
		allow()
		n := node.sub(t)
		tag, _, id, _ := pushed(t, n, "none:1")
		n.Pull(tag)
		refused(t, pod, id, codes.PermissionDenied, id, "allowed_images")
	})
}

// TestPolicyArchives names archives of the node as images.
func TestPolicyArchives(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	pod := n.Pod(t)
	missing := archive + ".gone"
	var texts []string
	for _, path := range []string{archive, missing} {
		err := refusal(t, pod, path, codes.PermissionDenied, path, "allow_archives = true")
		texts = append(texts, strings.ReplaceAll(fmt.Sprint(err), path, "PATH"))
	}
	if texts[0] != texts[1] {
		t.Errorf("the error tells whether a file exists:\n %s\n %s", texts[0], texts[1])
	}

	n.Reconfigure(harness.WithRestoreConfig(allowArchives))
	requirePlugin(t, n, "ok", "allow_archives true")
	restored(t, pod, archive, counted).Remove()
	dir, file := filepath.Split(archive)
	for _, unclean := range []string{dir + "/" + file, dir + "./" + file, dir + "x/../" + file, archive + "/",
		"/.." + archive, "/" + archive} {
		refused(t, pod, unclean, codes.InvalidArgument, fmt.Sprintf("%q", unclean), "clean absolute path")
	}
	refused(t, pod, missing, codes.NotFound, missing)
	refused(t, pod, filepath.Clean(dir), codes.InvalidArgument, filepath.Clean(dir))

	// The daemon's working directory is the node's folder: a relative path would be found.
	relative := "work/" + file
	if _, err := os.Stat(filepath.Join(filepath.Dir(n.Dir()), relative)); err != nil {
		t.Fatal(err)
	}
	refused(t, pod, relative, codes.NotFound, relative)
	refused(t, pod, "./"+relative, codes.NotFound, relative)
}

// TestPolicyArchiveDirectories names archives of directories that the node's configuration admits, and others, by links
// as well.
func TestPolicyArchiveDirectories(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	allowed, other := filepath.Join(n.Dir(), "allowed"), filepath.Join(n.Dir(), "allowed-not")
	for _, dir := range []string{allowed, other} {
		if err := os.MkdirAll(filepath.Join(dir, "sub"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"a.tar", "sub/b.tar"} {
			if err := os.Link(archive, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, target := range map[string]string{"out": other, "in": "sub", "file.tar": filepath.Join(other, "a.tar"),
		"up": "../allowed-not"} {
		if err := os.Symlink(target, filepath.Join(allowed, name)); err != nil {
			t.Fatal(err)
		}
	}
	n.Reconfigure(harness.WithRestoreConfig(fmt.Sprintf("allow_archives = [%q]", allowed)))
	requirePlugin(t, n, "ok", "allow_archives ["+allowed+"]")
	pod := n.Pod(t)
	for _, name := range []string{archive, filepath.Join(other, "a.tar"), filepath.Join(other, "none.tar"), allowed} {
		refused(t, pod, name, codes.PermissionDenied, fmt.Sprintf("%q", name), allowed, "add its directory to allow_archives")
	}
	for _, name := range []string{"out/a.tar", "up/a.tar", "out/none.tar"} {
		refused(t, pod, filepath.Join(allowed, name), codes.PermissionDenied, "a link leads out of "+allowed)
	}
	refused(t, pod, filepath.Join(allowed, "file.tar"), codes.InvalidArgument, "not a regular file")
	refused(t, pod, filepath.Join(allowed, "none.tar"), codes.NotFound, "none.tar")
	for _, name := range []string{"a.tar", "sub/b.tar", "in/b.tar"} {
		restored(t, pod, filepath.Join(allowed, name), counted).Remove()
	}
	n.Reconfigure(harness.WithRestoreConfig(`allow_archives = ["checkpoints"]`))
	requirePlugin(t, n, "error", `allow_archives: "checkpoints" is no clean absolute path`)
}
