package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestVerifyLinks: CRIU makes deleted files anew from outside the container. With an absolute link in the
// root file system it would make them on the host.
func TestVerifyLinks(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	img := workloadImage(t, n)
	host := filepath.Join(n.Dir(), "host")
	if err := os.Mkdir(host, 0o755); err != nil {
		t.Fatal(err)
	}
	pod := n.Pod(t)
	c := pod.Run("deleted", img, workload("kinds", "deleted"))
	c.Exec("/bin/ln", "-s", host, "/link") // a container may have such links
	counted := waitOK(t, c, 3)
	archive := checkpointOf(t, c)
	pod.Remove()
	pod = n.Pod(t)
	for _, name := range []string{"/tmp/kinds.deleted", "/tmp/kinds.dir"} {
		evil := "/link/" + filepath.Base(name)
		bad := editImages(t, archive, func(e *imageEditor) {
			editFile(e, func(f *fdinfo.FileEntry) bool { return f.GetReg().GetName() == name },
				func(f *fdinfo.FileEntry) { f.Reg.Name = &evil })
		})
		before := n.Inventory(t)
		_, err := pod.TryCreate("deleted", bad, workload("kinds", "deleted"))
		requireRefused(t, err, codes.PermissionDenied, evil, "symbolic link /link")
		n.RequireNoLeak(t, before)
	}
	if left, err := os.ReadDir(host); err != nil || len(left) != 0 {
		t.Errorf("on the host: %v, error %v", left, err)
	}
	requireOKContinues(t, pod.Run("deleted", archive, workload("kinds", "deleted")), counted)
}
