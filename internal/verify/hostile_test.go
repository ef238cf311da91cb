package verify

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

const (
	// hostilePart is which part of the worst that fits into the images is looked at here, with every run of the tests; the
	// benchmark looks at the whole.
	hostilePart = 16
	// hostileCPU is the time of processors that an answer may take, which others that run do not stretch. None takes a tenth of it.
	hostileCPU = 10 * time.Second * slower
)

// cpu is the time that this process has taken of processors.
func cpu(t testing.TB) time.Duration {
	t.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// hostile is an honest checkpoint after a change, in a directory, and a root file system with what it has open.
func hostile(t testing.TB, change func(map[string][]byte, string) error) (dir, root string) {
	t.Helper()
	dir = t.TempDir()
	files := honestImages(t)
	write := func() {
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write()
	images, err := criu.OpenImages(dir)
	if err != nil {
		t.Fatal(err)
	}
	root = rootOf(t, images)
	if err := errors.Join(images.Close(), change(files, root)); err != nil {
		t.Fatal(err)
	}
	write()
	return dir, root
}

// phases runs both phases, as a node that audits would. It returns the first error.
func phases(ctx context.Context, t testing.TB, spec *specs.Spec, dir, root string) error {
	t.Helper()
	subject := Subject{Spec: spec}
	var failed error
	for _, phase := range []func() (*Report, error){
		func() (*Report, error) { return Before(ctx, subject) },
		func() (*Report, error) { return After(ctx, subject, root) },
	} {
		images, err := criu.OpenImages(dir)
		if err != nil {
			t.Fatal(err)
		}
		subject.Images = images
		report, err := phase()
		if report == nil {
			t.Fatal("no report")
		}
		failed = errors.Join(failed, err, report.Err())
		if err := images.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return failed
}

// TestHostile: whatever a checkpoint is like, there is an answer in good time, and with a bound on memory.
func TestHostile(t *testing.T) {
	node(t)
	sets := criutest.Hostile(hostilePart)
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		t.Run(name, func(t *testing.T) {
			dir, root := hostile(t, sets[name])
			spec := honestSpec(t)
			if name != "many descriptors" { // of what nobody may do is asked for those who may not do everything
				spec.Process.Capabilities, spec.Process.NoNewPrivileges = &specs.LinuxCapabilities{}, true
			}
			if strings.HasSuffix(name, " chains") || strings.HasSuffix(name, " programs") {
				spec.Linux.Seccomp = profiled(t).Linux.Seccomp // without one they are no work
			}
			began := cpu(t)
			err := phases(t.Context(), t, spec, dir, root)
			took := cpu(t) - began
			t.Logf("%v: %.200v", took, err)
			if took > hostileCPU {
				t.Errorf("an answer took %v", took)
			}
			// Some are many things that a process may have.
			if may := []string{"many descriptors", "small files", "epoll in one", "epoll in many"}; err == nil && !slices.Contains(may, name) {
				t.Error("accepted")
			}
		})
	}
}

// TestHostileEndsWithTheContext: and if there is no time at all, nothing is let through.
func TestHostileEndsWithTheContext(t *testing.T) {
	node(t)
	dir, root := hostile(t, func(map[string][]byte, string) error { return nil })
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := phases(ctx, t, honestSpec(t), dir, root)
	if !errors.Is(err, context.Canceled) || errdefs.IsInvalidArgument(err) || errdefs.IsPermissionDenied(err) {
		t.Errorf("got %v", err)
	}
	// The honest twin.
	if err := phases(t.Context(), t, honestSpec(t), dir, root); err != nil {
		t.Errorf("got %v", err)
	}
}
