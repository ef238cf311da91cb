package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestPolicyRunc restores with no runc that is known to be bound by a link in the root file system to another directory
// of the node (CVE-2026-119101), by handler. Ordinary containers run with it. When it was exchanged for a newer one,
// checkpoints are restored without a restart of containerd.
func TestPolicyRunc(t *testing.T) {
	t.Parallel()
	binary, tools := filepath.Join(t.TempDir(), "other-runc"), harness.Require(t)
	install := func(version string) {
		t.Helper()
		script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" != --version ] || { echo runc version %s; exit; }\nexec %s \"$@\"\n",
			version, filepath.Join(tools.Bin, "runc"))
		if err := os.WriteFile(binary+".new", []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(binary+".new", binary); err != nil {
			t.Fatal(err)
		}
	}
	install("1.4.3")
	n := harness.New(t, harness.WithRestoreConfig(allowArchives), harness.WithConfig(fmt.Sprintf(`
		[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.other]
		runtime_type = 'io.containerd.runc.v2'
		[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.other.options]
		BinaryName = '%s'
		Root = '%s'
	`, binary, filepath.Join(t.TempDir(), "root"))))
	requirePlugin(t, n, "ok", "runc_runc "+filepath.Join(tools.Bin, "runc")+" 1.",
		"runc_other unusable: "+binary+" is runc 1.4.3", "install runc 1.4.4")
	archive, counted := countingCheckpoint(t, n)
	pod := n.Pod(t, harness.PodHandler("other"))
	ordinary(t, pod, n.Image(harness.Busybox))
	for _, checkpoint := range []string{imageOf(t, n, archive), archive} {
		refused(t, pod, checkpoint, codes.FailedPrecondition, binary, "runc 1.4.3", "CVE-2026-119101", "install runc 1.4.4")
	}
	restored(t, n.Pod(t), archive, counted)

	install("1.4.4")
	created := pod.Create("created", archive)
	install("1.5.2")
	if err := created.TryStart(); err == nil {
		t.Error("started with a runc that was exchanged for an older one since the creation")
	}
	created.Remove()
	install("1.5.3")
	restored(t, pod, archive, counted)
}
