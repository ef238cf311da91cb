package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// logged counts the lines of the daemon's log with all the words.
func logged(n *harness.Node, words ...string) (count int) {
	for line := range strings.Lines(n.DaemonLog()) {
		if containsAll(line, words...) {
			count++
		}
	}
	return count
}

// TestLazyByAnnotation lets a pod ask for a lazy restore where the node hears it, and refuses it elsewhere. What
// is lazy has its page server in the container's cgroup, and is timed part by part.
func TestLazyByAnnotation(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(lazyOff))
	archive, counted := pagesCheckpoint(t, n, "128", "1")
	ask := harness.PodAnnotation("org.criu.restore/lazy-pages", "on")
	_, err := n.Pod(t, ask).TryCreate("refused", archive)
	requireRefused(t, err, codes.PermissionDenied, "org.criu.restore/lazy-pages", "pod_annotations")

	n.Reconfigure(harness.WithRestoreConfig(`pod_annotations = ["lazy-pages"]`))
	_, err = n.Pod(t, harness.PodAnnotation("org.criu.restore/lazy-pages", "yes")).TryCreate("refused", archive)
	requireRefused(t, err, codes.InvalidArgument, `"yes"`, `"auto"`)

	eager := n.Pod(t).Run("eager", archive)
	requireOKContinues(t, eager, counted)
	if logged(n, "restored container from checkpoint", eager.ID, "lazy=false", "verify=", "criu=", "pages=") != 1 {
		t.Error("no line of an eager restore with its times")
	}
	if logged(n, "restored container from checkpoint", eager.ID, "serve=") != 0 {
		t.Error("an eager restore had a page server")
	}
	lazy := n.Pod(t, ask).Run("lazy", archive)
	requireOKContinues(t, lazy, counted)
	if logged(n, "restored container from checkpoint", lazy.ID, "lazy=true", "serve=", "criu=", "pages=") != 1 {
		t.Error("no line of a lazy restore with its times")
	}
	waitDaemonLog(t, n, "has arrived", lazy.ID, "drain=")
}

// TestLazyByDefault restores what has much memory lazily, and what has little eagerly, where nobody has said how.
func TestLazyByDefault(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	for mib, lazy := range map[string]string{"128": "lazy=true", "16": "lazy=false"} {
		archive, counted := pagesCheckpoint(t, n, mib, "1")
		c := n.Pod(t).Run("restored", archive)
		requireOKContinues(t, c, counted)
		if logged(n, "restored container from checkpoint", c.ID, lazy) != 1 {
			t.Errorf("%s MiB: no line with %s", mib, lazy)
		}
	}
}

// TestLazyWithoutUserfaultfd restores eagerly where the kernel cannot do it lazily, and says so once.
func TestLazyWithoutUserfaultfd(t *testing.T) {
	t.Parallel()
	// A CRIU that finds no userfaultfd, and is the real one otherwise.
	dir := t.TempDir()
	criu := filepath.Join(dir, "criu")
	script := "#!/bin/sh\ncase \"$*\" in *uffd*) echo 'Error (criu/cr-check.c:1): UFFD is not supported' >&2; exit 1;; " +
		"esac\nexec " + harness.Require(t).CRIU + " \"$@\"\n"
	if err := os.WriteFile(criu, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	n := harness.New(t, harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(lazyOn),
		harness.WithEnv("PATH="+dir+":"+harness.Require(t).Path()))
	archive, counted := pagesCheckpoint(t, n, "16", "1")
	for range 2 {
		c := n.Pod(t).Run("restored", archive)
		requireOKContinues(t, c, counted)
		if logged(n, "restored container from checkpoint", c.ID, "lazy=false") != 1 {
			t.Error("the restore is not said to be eager")
		}
	}
	if got := logged(n, "this node cannot restore lazily", "UFFD is not supported"); got != 1 {
		t.Errorf("said %d times", got)
	}
}
