package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestAttackBasePull has checkpoints that name base images which the node lacks, on a node that
// pulls none on behalf of a checkpoint: no request leaves it, by whatever way the checkpoint came.
func TestAttackBasePull(t *testing.T) {
	t.Parallel()
	node := newPullNode(t, harness.WithRestoreConfig("pull_base_images = false\n"+allowArchives))
	pod := node.Pod(t)
	n := node.sub(t)
	_, repository, reference := n.base(t)
	archive := rebased(t, n.archive, "base:1", reference)
	imported := n.checkpointOn(t, "base:1", reference)
	tag := n.Registry().Push(unique("checkpoint")+":1", checkpointImage(t, archive))
	words := []string{reference, "not on this node", "pull_base_images = false"}

	n.Pull(tag) // which may be, and brings nothing else
	for _, source := range []string{archive, imported, tag} {
		refused(t, pod, source, codes.FailedPrecondition, append(words, source)...)
	}
	if got := n.front.got(""); len(got) > 0 {
		t.Errorf("the node asked the registry of the base image, %d times: %v", len(got), got)
	}
	// The honest twin: somebody has pulled it on this node.
	n.Pull(reference)
	for _, source := range []string{archive, imported, tag} {
		restored(t, pod, source, n.counted).Remove()
	}
	// And a node that does pull.
	n.RemoveImage(reference)
	n.Reconfigure(harness.WithRestoreConfig("pull_base_images = true\n" + allowArchives))
	n.front.registry.ResetRequests()
	restored(t, pod, imported, n.counted).Remove()
	if got := n.front.got("/" + repository + "/"); len(got) == 0 {
		t.Error("the base image came from nowhere: this test could not see a pull")
	}
}

// TestAttackBaseVerifier has a node whose image verifier (containerd: docs/image-verification.md)
// admits the checkpoint image and not its base image: the base comes in by the same door.
func TestAttackBaseVerifier(t *testing.T) {
	t.Parallel()
	node := newPullNode(t)
	pod := node.Pod(t)
	n := node.sub(t)
	_, repository, reference := n.base(t)
	_, good, goodReference := n.base(t)
	verifier := filepath.Join(filepath.Dir(n.Dir()), "verifier", "verify")
	writeHostFile(t, verifier, "#!/bin/sh\ncase \"$*\" in *"+repository+"*) echo not signed; exit 1;; esac\necho signed\n")
	if err := os.Chmod(verifier, 0o700); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(verifier)

	tag := n.Registry().Push(unique("checkpoint")+":1", checkpointImage(t, rebased(t, n.archive, "base:1", reference)))
	_, err := n.TryPull(tag, "", "")
	if err == nil || !strings.Contains(err.Error(), "not signed") || !strings.Contains(err.Error(), reference) {
		t.Errorf("pull of a checkpoint image whose base image is not signed: %v", err)
	}
	err = refusal(t, pod, tag, codes.Unavailable, reference, "not signed")
	if n.ImageStatus(reference) != nil {
		t.Errorf("the base image came all the same: %v", err)
	}
	twin := n.Registry().Push(unique("checkpoint")+":1",
		checkpointImage(t, rebased(t, n.archive, "base:1", goodReference)))
	n.Pull(twin)
	restored(t, pod, twin, n.counted).Remove()
	if got := n.front.got("/" + good + "/"); len(got) == 0 {
		t.Error("the twin's base image came from nowhere")
	}
}
