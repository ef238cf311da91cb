package kubernetes

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/integration/kubernetes/cluster"
	"github.com/cri-restore/cri-restore/integration/testimage"
)

// callTimeout bounds the wait for a log.
const callTimeout = 2 * time.Minute

// The credentials that the registry demands.
const user, password = "kube", "secret"

// world is the cluster that the tests share, and what they restore.
type world struct {
	*cluster.Cluster
	n *harness.Node

	// base and image are the references of a base image and of a checkpoint of it, by the
	// tags that pods use. counted is what the process had counted to.
	base, image string
	archive     string
	counted     int

	metricsAddress string // of containerd
}

func newWorld(t *testing.T) *world {
	t.Helper()
	metrics := freeAddress(t)
	n := harness.New(t, harness.WithRegistryAuth(user, password),
		harness.WithRestoreConfig(`pod_annotations = ["on-failure", "before-checkpoint", "after-checkpoint", `+
			`"after-restore"]`),
		harness.WithConfig("[plugins.'io.containerd.server.v1.metrics']\naddress = "+strconv.Quote(metrics)))
	w := &world{Cluster: cluster.New(t, n), n: n, metricsAddress: metrics}
	w.Kubectl(t, "create", "secret", "docker-registry", "registry", "--docker-server="+n.Registry().Host(),
		"--docker-username="+user, "--docker-password="+password)
	// RBAC for the checkpoint API, as docs/kubernetes.md has it.
	w.Kubectl(t, "create", "clusterrole", "checkpointer", "--verb=create", "--resource=nodes/checkpoint")
	w.Kubectl(t, "create", "clusterrolebinding", "checkpointer", "--clusterrole=checkpointer", "--user=checkpointer")
	return w
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// pushBase pushes an image like the harness's busybox, but with layers of its own, and returns the reference by its
// tag.
func (w *world) pushBase(t *testing.T, repository string, options testimage.Options) string {
	t.Helper()
	options.Files = map[string]string{"/etc/base": repository}
	img, err := testimage.New(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	w.n.Registry().Push(repository+":1", img)
	return w.n.Registry().Ref(repository + ":1")
}

// pushCheckpoint makes a checkpoint image of an archive with the program that users have, and pushes it with
// credentials.
func (w *world) pushCheckpoint(t *testing.T, archive, repository string) string {
	t.Helper()
	ref := w.n.Registry().Ref(repository + ":1")
	dir := filepath.Join(t.TempDir(), "layout")
	cmd := exec.CommandContext(t.Context(), filepath.Join(w.n.Tools().Bin, "checkpoint-image"), "--name", ref, "--layout",
		dir, archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("checkpoint-image: %v: %s", err, out)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil || len(manifest.Manifests) != 1 {
		t.Fatalf("layout: %v, error %v", manifest, err)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img, remote.WithAuth(authn.Anonymous)); err == nil {
		t.Fatal("the registry takes images without credentials")
	}
	if err := remote.Write(tag, img, remote.WithAuth(&authn.Basic{Username: user, Password: password}),
		remote.WithContext(t.Context())); err != nil {
		t.Fatalf("push %s: %v", ref, err)
	}
	return ref
}

// counting is a script that counts in its log, and ends as a program in a pod does. what runs before.
func counting(what string) string {
	return what + `trap 'echo "stopped at $i"; echo "bye at $i" >/dev/termination-log; exit 7' TERM; i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`
}

// manifest is that of a pod. spec and containers are lines of YAML.
func manifest(name, spec string, containers ...string) string {
	metadata, spec, _ := cutAnnotations(spec)
	return fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata:
  name: %s
  labels: {app: %s}
%sspec:
  nodeName: %s
  dnsPolicy: Default
  terminationGracePeriodSeconds: 3
  imagePullSecrets: [{name: registry}]
%s
  containers:
%s`, name, name, metadata, cluster.Node, spec, strings.Join(containers, ""))
}

// cutAnnotations cuts a leading line "annotations: ..." off a pod's spec.
func cutAnnotations(spec string) (metadata, rest string, found bool) {
	line, after, _ := strings.Cut(spec, "\n")
	if strings.HasPrefix(strings.TrimSpace(line), "annotations:") {
		return "  " + strings.TrimSpace(line) + "\n", after, true
	}
	return "", spec, false
}

// container is one of a pod's. more is a YAML flow: ", key: value".
func container(name, image, more string) string {
	return fmt.Sprintf("  - {name: %s, image: %q%s}\n", name, image, more)
}

// script is the more of a container that runs a shell script.
func script(text string) string { return `, command: [/bin/sh, -c, ` + strconv.Quote(text) + `]` }

// numbers are what the counter has logged, as kubectl logs shows it.
func numbers(log string) []int {
	var found []int
	for line := range strings.Lines(log) {
		if digits, ok := strings.CutPrefix(strings.TrimSpace(line), "count "); ok {
			if n, err := strconv.Atoi(digits); err == nil {
				found = append(found, n)
			}
		}
	}
	return found
}

// waitCount follows a container's log until it has counted beyond a number, and returns the whole log.
func (w *world) waitCount(t *testing.T, pod, container string, beyond int) string {
	t.Helper()
	return w.waitLog(t, pod, container, func(line string) bool {
		n := numbers(line)
		return len(n) > 0 && n[0] > beyond
	})
}

// waitLog follows a container's log until a line is as wanted.
func (w *world) waitLog(t *testing.T, pod, container string, wanted func(line string) bool) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	log, err := w.FollowLog(ctx, pod, container, wanted)
	if err != nil {
		t.Fatalf("log of pod %s: %v; it has:\n%s", pod, err, last(log, 10))
	}
	return log
}

// requireGoesOn fails the test unless the counter of a pod goes on from what it had counted to, and its log has
// every line from the first.
func (w *world) requireGoesOn(t *testing.T, pod, container string, counted int) {
	t.Helper()
	got := numbers(w.waitCount(t, pod, container, counted+3))
	for i, n := range got {
		if n != i+1 {
			t.Fatalf("pod %s: line %d of its log has %d: %v", pod, i+1, n, got)
		}
	}
}

// exec runs a command in a container with kubectl.
func (w *world) exec(t *testing.T, pod, container string, command ...string) string {
	t.Helper()
	return strings.TrimSpace(w.Kubectl(t, slices.Concat([]string{"exec", pod, "-c", container, "--"}, command)...))
}

// delete deletes a pod and waits until it is gone.
func (w *world) delete(t *testing.T, pod string) {
	t.Helper()
	w.Kubectl(t, "delete", "pod", pod, "--wait=true", "--timeout=60s")
}

// forget removes images from the node.
func (w *world) forget(t *testing.T, refs ...string) {
	t.Helper()
	n := w.n.In(t)
	for _, ref := range refs {
		if img := n.ImageStatus(ref); img != nil {
			n.RemoveImage(img.GetId())
		}
		if n.ImageStatus(ref) != nil {
			t.Fatalf("%s is still on the node", ref)
		}
	}
}

// forgetBase removes a base image, which has no tag if a checkpoint brought it.
func (w *world) forgetBase(t *testing.T, ref string) {
	t.Helper()
	w.forget(t, ref, w.digestOf(t, ref))
}

// digestOf is the reference by digest of what the registry has under a tag.
func (w *world) digestOf(t *testing.T, ref string) string {
	t.Helper()
	tag, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	desc, err := remote.Head(tag, remote.WithAuth(&authn.Basic{Username: user, Password: password}))
	if err != nil {
		t.Fatal(err)
	}
	return tag.Context().Digest(desc.Digest.String()).String()
}

// changeArchive rewrites one text of a checkpoint archive and returns the path of the new one.
func changeArchive(t *testing.T, archive, file, from, to string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, "tar", "-xf", archive, "-C", dir)
	path := filepath.Join(dir, file)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(data, []byte(from)) {
		t.Fatalf("%s has no %q", file, from)
	}
	if err := os.WriteFile(path, bytes.ReplaceAll(data, []byte(from), []byte(to)), 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "changed.tar")
	run(t, "tar", "-cf", out, "-C", dir, ".")
	return out
}

func run(t *testing.T, command ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", command, err, out)
	}
}

func last(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
