package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestFailureCreate lets each step of a create fail. What the steps before it have made
// is taken back, and the same name can be used at once.
func TestFailureCreate(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	ref := imageOf(t, a.n, a.archive)
	for source, checkpoint := range map[string]string{"archive": a.archive, "image": ref} {
		for name, tc := range map[string]struct {
			opt   harness.ContainerOpt
			code  codes.Code
			words []string
		}{
			"terminal": {harness.Tty(), codes.FailedPrecondition, []string{"set tty: false"}},
			"stdin":    {harness.Stdin(), codes.FailedPrecondition, []string{"set stdin: false"}},
			"new volume": {harness.Mount(a.host, "/proc/mnt", true), codes.FailedPrecondition,
				[]string{"the pod mounts a volume at \"/proc/mnt\"", "CRIU cannot add"}},
			"two":         {twoFaults, codes.FailedPrecondition, []string{"set tty: false", "pid namespace"}},
			"containerd":  {noSuchUser, codes.Unknown, []string{"no users found"}},
			"log is a":    {harness.LogPath("dir"), codes.InvalidArgument, []string{"container log", "dir"}},
			"log linked":  {harness.LogPath("link"), codes.InvalidArgument, []string{"container log", "link"}},
			"log is FIFO": {harness.LogPath("fifo"), codes.InvalidArgument, []string{"container log", "fifo"}},
			"log in file": {harness.LogPath("file/x.log"), codes.Unknown, []string{"container log", "file"}},
		} {
			t.Run(source+" "+name, func(t *testing.T) {
				logs := a.pod.Config.GetLogDirectory()
				for _, err := range []error{
					os.Mkdir(filepath.Join(logs, "dir"), 0o755),
					os.Symlink(filepath.Join(a.host, "victim"), filepath.Join(logs, "link")),
					unix.Mkfifo(filepath.Join(logs, "fifo"), 0o600), os.WriteFile(filepath.Join(logs, "file"), nil, 0o600),
				} {
					if err != nil {
						t.Fatal(err)
					}
				}
				a.refusesRequest(t, checkpoint, []harness.ContainerOpt{tc.opt}, tc.code, tc.words...)
				for _, file := range []string{"dir", "link", "fifo", "file"} {
					if err := os.Remove(filepath.Join(logs, file)); err != nil {
						t.Errorf("what stood in the log's place: %v", err)
					}
				}
			})
		}
	}
	t.Run("base image absent", func(t *testing.T) {
		for _, base := range []string{a.n.Image("busybox"), a.n.Image("no/such/repository"), "127.0.0.1:1/unreachable"} {
			config := jsonFile(t, a.honest, "config.dump", func(o object) {
				o["rootfsImageRef"] = base + "@sha256:" + strings.Repeat("ab", 32)
			})
			code := codes.NotFound
			if strings.Contains(base, "unreachable") {
				code = codes.Unavailable
			}
			a.refuses(t, doctoredArchive(t, a.n, withEntries(a.honest, config)), code, base, "on this node")
		}
	})
	t.Run("pod absent", func(t *testing.T) {
		before := a.n.Inventory(t)
		_, err := a.n.Runtime().CreateContainer(a.n.In(t).Context(), &runtime.CreateContainerRequest{
			PodSandboxId: strings.Repeat("ab", 32), SandboxConfig: a.pod.Config,
			Config: &runtime.ContainerConfig{Metadata: &runtime.ContainerMetadata{Name: "victim"},
				Image: &runtime.ImageSpec{Image: ref}},
		})
		requireRefused(t, err, codes.NotFound, strings.Repeat("ab", 32))
		a.n.RequireNoLeak(t, before)
	})
	t.Run("name taken", func(t *testing.T) {
		first := a.pod.Create("victim", ref)
		before := a.n.Inventory(t)
		log, err := os.ReadFile(first.LogFile())
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.pod.TryCreate("victim", a.archive)
		requireRefused(t, err, codes.FailedPrecondition, "reserved for", first.ID)
		a.n.RequireNoLeak(t, before)
		if now, err := os.ReadFile(first.LogFile()); err != nil || string(now) != string(log) {
			t.Errorf("the first container's log was changed from %q to %q, error %v", log, now, err)
		}
		first.Start()
		requireContinues(t, first, a.counted)
		first.Remove()
		forgetLog(t, first)
	})
	a.goesOn(t)
}

func twoFaults(c *runtime.ContainerConfig) {
	harness.Tty()(c)
	c.Linux.SecurityContext.NamespaceOptions.Pid = runtime.NamespaceMode_NODE
}

func noSuchUser(c *runtime.ContainerConfig) {
	c.Linux.SecurityContext.RunAsUsername = "nosuchuser"
}

// TestFailureDiskFull lets the disk be full, or read-only, where the archive is unpacked, where
// views are mounted and where the log goes.
func TestFailureDiskFull(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	ref := imageOf(t, a.n, a.archive)
	const plugin = "io.containerd.cri.v1.restore"
	long := doctoredArchive(t, a.n, withEntries(a.honest, regularEntry("container.log", longLog(512<<10))))
	logs := filepath.Join(a.pod.Config.GetLogDirectory(), "disk")
	for name, tc := range map[string]struct {
		dir, data string
		flags     uintptr
		image     string
		opts      []harness.ContainerOpt
		code      codes.Code
		word      string
	}{
		"root full": {filepath.Join(a.n.Root(), plugin), "size=128k", 0, a.archive, nil, codes.ResourceExhausted,
			"the disk is full"},
		"root read-only": {filepath.Join(a.n.Root(), plugin), "", unix.MS_RDONLY, ref, nil, codes.Unknown,
			"read-only file system"},
		"state read-only": {filepath.Join(a.n.State(), plugin), "", unix.MS_RDONLY, ref, nil, codes.Unknown,
			"read-only file system"},
		"log full": {logs, "size=64k", 0, long, []harness.ContainerOpt{harness.LogPath("disk/x.log")}, codes.Unknown,
			"no space left"},
		"log read-only": {logs, "", unix.MS_RDONLY, ref, []harness.ContainerOpt{harness.LogPath("disk/x.log")},
			codes.Unknown, "read-only file system"},
	} {
		t.Run(name, func(t *testing.T) {
			before := a.n.Inventory(t)
			if err := os.MkdirAll(tc.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mount("tmpfs", tc.dir, "tmpfs", tc.flags, tc.data); err != nil {
				t.Fatal(err)
			}
			_, err := a.pod.TryCreate("victim", tc.image, tc.opts...)
			left := fileNames(t, tc.dir)
			if uerr := unix.Unmount(tc.dir, 0); uerr != nil {
				t.Errorf("something still uses %s: %v", tc.dir, uerr)
			}
			requireRefused(t, err, tc.code, tc.word)
			if len(left) > 0 {
				t.Errorf("left in %s: %q", tc.dir, left)
			}
			a.n.RequireNoLeak(t, before)
			twin := a.pod.Create("victim", tc.image, tc.opts...)
			twin.Remove()
			forgetLog(t, twin)
			_ = os.Remove(logs) // made for the mount, or by the twin
			a.n.RequireNoLeak(t, before)
		})
	}
	a.goesOn(t)
}

// longLog is a container log of at least n bytes.
func longLog(n int) string {
	const line = "2026-01-01T00:00:00.000000000Z stdout F count 1\n"
	return strings.Repeat(line, n/len(line)+1)
}

// TestFailureReason checks that a refusal can be told from others by its gRPC code, and
// that containerd's own stay what they are.
func TestFailureReason(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	pod := n.Pod(t)
	_, ours := pod.TryCreate("c", n.Image(harness.Busybox), noSuchUser)
	if status.Code(ours) != codes.Unknown || !strings.Contains(ours.Error(), "no users found") {
		t.Errorf("ordinary container with an unknown user: %v", ours)
	}
	_, err := pod.TryCreate("c", "no-such-image:1", harness.Counting())
	requireRefused(t, err, codes.NotFound)
	_, err = pod.TryCreate("c", filepath.Join(n.Dir(), "archive.tar"), harness.Counting())
	requireRefused(t, err, codes.PermissionDenied, "allow_archives")
	_, err = pod.TryCreate("c", "relative/archive.tar", harness.Counting())
	requireRefused(t, err, codes.NotFound)
}
