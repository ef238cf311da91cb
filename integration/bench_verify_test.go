package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"golang.org/x/sys/unix"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/restore"
	"github.com/cri-restore/cri-restore/internal/verify"
)

// maxVerification is what the comparison of a checkpoint with its pod may take.
const maxVerification = 50 * time.Millisecond

// BenchmarkVerify measures the comparison itself, for 50 processes with 1 GiB of memory
// between them and a seccomp profile, and the digest that closes the window between it and the restore.
func BenchmarkVerify(b *testing.B) {
	n := harness.New(b, harness.WithRestoreConfig(allowArchives))
	const script = `i=1; while [ $i -lt 50 ]; do i=$((i+1)); /bin/workload heap 20 >/dev/null & done; exec /bin/workload heap 40`
	opts := []harness.ContainerOpt{harness.Shell(script), harness.Security(func(s *runtime.LinuxContainerSecurityContext) {
		s.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
	})}
	pod := n.Pod(b)
	c := pod.Run("crowd", workloadImage(b, n), opts...)
	waitOK(b, c, 3)
	archive := checkpointOf(b, c)
	pod.Remove()
	dir := b.TempDir()
	if err := checkpoint.Unpack(n.Context(), archive, dir, checkpoint.DefaultLimits()); err != nil {
		b.Fatal(err)
	}
	dir = filepath.Join(dir, "checkpoint")
	restored := n.Pod(b).Create("crowd", archive, opts...)
	spec := specOf(b, restored)

	root := openRoot(b, dir)
	var compared, digested []time.Duration
	var processes int
	for range 20 * rounds(b) { // each takes milliseconds
		began := time.Now()
		images, err := criu.OpenImages(dir)
		if err != nil {
			b.Fatal(err)
		}
		subject := verify.Subject{Images: images, Spec: spec}
		before, err := verify.Before(b.Context(), subject)
		if err != nil {
			b.Fatal(err)
		}
		after, err := verify.After(b.Context(), subject, root)
		if err != nil {
			b.Fatal(err)
		}
		compared = append(compared, time.Since(began))
		if err := errors.Join(before.Err(), after.Err()); err != nil {
			b.Fatal(err)
		}
		all, err := images.Processes()
		if err != nil {
			b.Fatal(err)
		}
		processes = len(all)
		_ = images.Close()
		began = time.Now()
		if _, err := restore.Digest(b.Context(), dir); err != nil {
			b.Fatal(err)
		}
		digested = append(digested, time.Since(began))
	}
	var memory int64
	pages, err := filepath.Glob(filepath.Join(dir, "pages-*.img"))
	if err != nil {
		b.Fatal(err)
	}
	for _, file := range pages {
		info, err := os.Stat(file)
		if err != nil {
			b.Fatal(err)
		}
		memory += info.Size()
	}
	if processes < 50 || memory < 1<<30 {
		b.Fatalf("the checkpoint has %d processes and %d bytes of memory, want 50 and 1 GiB", processes, memory)
	}
	fmt.Printf("verification of %d processes, %d MiB: %.1f ms (%s), digest %.1f ms (%s)\n", processes, memory>>20,
		milliseconds(median(compared)), spread(compared), milliseconds(median(digested)), spread(digested))
	b.ReportMetric(0, "ns/op") // not what was measured
	b.ReportMetric(milliseconds(median(compared)), "verify-ms")
	b.ReportMetric(milliseconds(median(digested)), "digest-ms")
	if median(compared) > maxVerification {
		b.Errorf("verification takes %s, want at most %s", median(compared), maxVerification)
	}
}

// openRoot is a root file system that has what the processes of a checkpoint have open in theirs.
func openRoot(b *testing.B, dir string) string {
	b.Helper()
	root := b.TempDir()
	images, err := criu.OpenImages(dir)
	if err != nil {
		b.Fatal(err)
	}
	defer images.Close()
	files, err := criu.Entries[*fdinfo.FileEntry](images, "files.img", "FILES")
	if err != nil {
		b.Fatal(err)
	}
	modes := map[string]uint32{}
	for _, f := range files {
		if r := f.GetReg(); r != nil && r.GetMode()&unix.S_IFMT == unix.S_IFDIR {
			modes[filepath.Join(root, r.GetName())] = r.GetMode() & 0o7777
			err = os.MkdirAll(filepath.Join(root, r.GetName()), 0o755)
		} else if r != nil && r.GetMode()&unix.S_IFMT == unix.S_IFREG {
			name := filepath.Join(root, r.GetName())
			modes[name] = r.GetMode() & 0o7777
			err = errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, nil, 0o600),
				os.Truncate(name, int64(r.GetSize())))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	for name, mode := range modes {
		if err := unix.Chmod(name, mode); err != nil {
			b.Fatal(err)
		}
	}
	return root
}
