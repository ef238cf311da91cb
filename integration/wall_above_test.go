package integration

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestWallAbove: a deleted file whose path leads out of the container without any link of its own: through one of
// procfs, which are followed everywhere, or upwards. CRIU makes deleted files from outside the container.
func TestWallAbove(t *testing.T) {
	t.Parallel()
	w := newWall(t)
	opts := []harness.ContainerOpt{harness.Mount(t.TempDir(), "/mnt", false)}
	k := w.checkpoint(t, harness.Busybox, append(opts, harness.Shell(counting))...)
	up := strings.Repeat("../", 14) + strings.TrimPrefix(w.secrets, "/") + "/evil"
	pod := always(opts...)
	malformed := stop{at: "create", code: codes.InvalidArgument, words: []string{"not absolute and clean"}}
	w.all(t,
		attack("procfs", w.forged(t, k, "/proc", deletedFile("/proc/self/root"+w.secrets+"/evil").ofRoot()), pod,
			refusedWith("a deleted file in the mount at /proc")).beyond(fails("in a mount of type proc")),
		attack("procfs, upwards", w.forged(t, k, "/proc", deletedFile("/proc/self/fd/126/"+up).ofRoot()), pod,
			malformed).audited(fails("it is not below its mount")),
		attack("upwards", w.forged(t, k, "/mnt", deletedFile("/mnt/"+up).ofRoot()), pod,
			malformed).audited(fails("it is not below its mount")),
		attack("folder, upwards", w.forged(t, k, "/mnt", deletedDir("/mnt/"+up, 0o777)), pod,
			malformed).audited(fails("it is not below its mount")),
		twin("", w.forged(t, k, "/mnt", deletedFile("/mnt/evil").ofRoot(), deletedDir("/mnt/dir/evil", 0o700).ofRoot()), pod),
	)
}
