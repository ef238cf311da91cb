package integration

import (
	"archive/tar"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// mountTable returns what a container has mounted: by mount point, the type and the flags that grant something.
func mountTable(t *testing.T, c *harness.Container) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(readFile(t, fmt.Sprintf("/proc/%d/mountinfo", c.Pid()))), "\n") {
		fields := strings.Fields(line)
		sep := slices.Index(fields, "-")
		if sep < 0 || len(fields) < sep+2 {
			t.Fatalf("line %q", line)
		}
		flags := slices.DeleteFunc(strings.Split(fields[5], ","),
			func(f string) bool { return strings.HasSuffix(f, "atime") })
		for _, f := range fields[6:sep] {
			flags = append(flags, strings.Split(f, ":")[0])
		}
		p := fields[4]
		if _, ok := out[p]; ok {
			p += " (again)"
		}
		out[p] = fields[sep+1] + " " + strings.Join(flags, ",")
	}
	return out
}

// sameMounts fails unless a restored container has the mounts that runc makes for the same
// configuration. A masked path may be more closed.
func sameMounts(t *testing.T, restored, ordinary *harness.Container) {
	t.Helper()
	is, want := mountTable(t, restored), mountTable(t, ordinary)
	for _, p := range slices.Sorted(maps.Keys(want)) {
		if slices.Contains(maskedPaths, p) {
			if is[p] == "" {
				t.Errorf("%s is not masked", p)
			}
			requireMasked(t, restored, p)
		} else if is[p] != want[p] {
			t.Errorf("mount %s: restored %q, ordinary %q", p, is[p], want[p])
		}
	}
	for p := range is {
		if _, ok := want[p]; !ok {
			t.Errorf("mount %s: restored %q, ordinary none", p, is[p])
		}
	}
}

func privilegedPod(s *harness.PodSpec) { s.Config.Linux.SecurityContext.Privileged = true }

// TestVerifyMountsHonest restores containers in all modes into pods of the same mode. Their mounts are accepted,
// and are afterwards those of an ordinary container.
func TestVerifyMountsHonest(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	volume, other := t.TempDir(), t.TempDir()
	sub := filepath.Join(other, "sub")
	if err := os.Mkdir(sub, 0o755); err != nil {
		t.Fatal(err)
	}
	shared := sharedDir(t)
	for _, m := range []mode{
		{name: "plain"},
		{name: "hidden paths", opts: []harness.ContainerOpt{kubeletPaths()}},
		{name: "terminal", opts: []harness.ContainerOpt{harness.Tty(), kubeletPaths()}},
		// The same disk, a directory twice, and one below the other: CRIU makes no difference between them.
		{name: "volumes", opts: []harness.ContainerOpt{
			harness.Mount(volume, "/mnt/ro", true), harness.Mount(volume, "/mnt/again", true),
			harness.Mount(volume, "/mnt/open", false),
			harness.Mount(other, "/mnt/outer", true), harness.Mount(sub, "/mnt/inner", true),
			harness.Mount("/etc/hostname", "/mnt/file", true),
		}},
		{name: "volume below a volume", opts: []harness.ContainerOpt{harness.Mount(other, "/mnt/a", false),
			harness.Mount(volume, "/mnt/a/sub", true)}},
		{name: "from the host", opts: []harness.ContainerOpt{propagated(shared, "/mnt/shared",
			runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER)}},
		{name: "read-only root", opts: []harness.ContainerOpt{harness.ReadonlyRootfs(), kubeletPaths()}},
		{name: "privileged", pod: []harness.PodOpt{privilegedPod}, opts: []harness.ContainerOpt{harness.Privileged()}},
		{name: "host network", pod: []harness.PodOpt{harness.PodHostNetwork()}, opts: []harness.ContainerOpt{kubeletPaths()}},
		{name: "shared PID", pod: []harness.PodOpt{harness.PodSharedPID()}, opts: []harness.ContainerOpt{kubeletPaths()}},
		{name: "host PID", pod: []harness.PodOpt{harness.PodHostPID()}, opts: []harness.ContainerOpt{kubeletPaths()}},
	} {
		t.Run(m.name, func(t *testing.T) {
			n := n.In(t)
			pod := n.Pod(t, m.pod...)
			// In a shared PID namespace a restored process needs the PID that it had.
			pod.Run("first", n.Image(harness.Busybox), harness.Shell("for i in $(seq 100); do /bin/true; done")).WaitExited()
			c := pod.Run("counter", n.Image(harness.Busybox), append([]harness.ContainerOpt{harness.Counting()}, m.opts...)...)
			counted := c.WaitCount(5)
			archive := checkpointOf(t, c)
			pod.Remove()
			before := n.Inventory(t)
			pod = n.Pod(t, m.pod...)
			restored := pod.Run("restored", archive, m.opts...)
			requireContinues(t, restored, counted)
			ordinary := pod.Run("ordinary", n.Image(harness.Busybox),
				append([]harness.ContainerOpt{harness.Counting()}, m.opts...)...)
			sameMounts(t, restored, ordinary)
			// And once more: what was restored can be checkpointed, with mounts that pass.
			again, table := checkpointOf(t, restored), mountTable(t, restored)
			restored.Remove()
			ordinary.Remove()
			if got := mountTable(t, pod.Run("again", again, m.opts...)); !maps.Equal(got, table) {
				t.Errorf("after another checkpoint: %v, before %v", got, table)
			}
			pod.Remove()
			n.RequireNoLeak(t, before)
		})
	}
}

// sharedDir returns a mount of the host from which others can appear in a container.
func sharedDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	return dir
}

func propagated(host, path string, p runtime.MountPropagation) harness.ContainerOpt {
	return func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{HostPath: host, ContainerPath: path, Propagation: p})
	}
}

// TestVerifyMountsForced restores into pods that are granted more or less than the one that was
// checkpointed: the mounts are then as in an ordinary container of the new pod.
func TestVerifyMountsForced(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	volume, shared := t.TempDir(), sharedDir(t)
	mounts := func(readonly bool, p runtime.MountPropagation) harness.ContainerOpt {
		return func(c *runtime.ContainerConfig) {
			harness.Mount(volume, "/mnt/one", readonly)(c)
			harness.Mount(volume, "/mnt/two", readonly)(c)
			propagated(shared, "/mnt/shared", p)(c)
		}
	}
	const private, slave = runtime.MountPropagation_PROPAGATION_PRIVATE,
		runtime.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
	open := []harness.ContainerOpt{mounts(false, private)}
	closed := []harness.ContainerOpt{mounts(true, slave), harness.ReadonlyRootfs(), kubeletPaths()}
	for name, c := range map[string]struct{ was, is []harness.ContainerOpt }{
		"closed": {open, closed}, "opened": {closed[:2], open}, "as before": {closed, closed},
	} {
		t.Run(name, func(t *testing.T) {
			n := n.In(t)
			archive, counted := countingCheckpoint(t, n, c.was...)
			pod := n.Pod(t)
			restored := pod.Run("restored", archive, c.is...)
			requireContinues(t, restored, counted)
			ordinary := pod.Run("ordinary", n.Image(harness.Busybox),
				append([]harness.ContainerOpt{harness.Counting()}, c.is...)...)
			sameMounts(t, restored, ordinary)
			for _, dir := range []string{"/mnt/one", "/mnt/two", "/"} {
				file := filepath.Join(dir, "touched")
				_, stderr, code, err := restored.TryExec("touch", file)
				if err != nil || (code == 0) != (name == "opened") || code != 0 && !strings.Contains(stderr, "Read-only") {
					t.Errorf("touch %s: exit code %d, %q, error %v", file, code, stderr, err)
				}
			}
		})
	}
}

// TestVerifyMountsTmpfs restores what was in /dev, and nothing in there that the pod was not granted.
func TestVerifyMountsTmpfs(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newGrant(t, n, harness.Shell(`mkdir -p /dev/dir; echo kept > /dev/dir/file; ln -s dir/file /dev/link; mkfifo /dev/fifo
i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`))
	dev := func(change func(*imageEditor, string)) func(*imageEditor) {
		return func(e *imageEditor) {
			all, err := criu.Entries[*mnt.MntEntry](e.Images(), e.Name("mountpoints-*.img"), "MNTS")
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range all {
				if m.GetMountpoint() == "/dev" {
					change(e, fmt.Sprintf("tmpfs-dev-%d.tar.gz.img", m.GetRootDev()))
				}
			}
		}
	}
	files := func(more ...criutest.Entry) func(*imageEditor) {
		return dev(func(e *imageEditor, name string) {
			e.Write(name, []byte(criutest.Archive(append(criutest.DevFiles(), more...)...)))
		})
	}
	suid := criutest.File("./su", "x")
	suid.Mode = 0o4755
	capable := criutest.File("./capable", "x")
	capable.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": "x"}
	disk := criutest.Char("./disk", 254, 0)
	disk.Typeflag = tar.TypeBlock
	for name, c := range map[string]struct {
		change func(*imageEditor)
		code   codes.Code
		word   string
	}{
		"memory":     {files(criutest.Char("./mem", 1, 1)), codes.PermissionDenied, "c 1:1"},
		"disk":       {files(disk), codes.PermissionDenied, "b 254:0"},
		"setuid":     {files(suid), codes.PermissionDenied, "./su"},
		"capability": {files(capable), codes.InvalidArgument, "security.capability"},
		"outside":    {files(criutest.File("./../../../tmp/outside", "x")), codes.InvalidArgument, "outside"},
		"through a link": {files(criutest.Link("./out", "/etc"), criutest.File("./out/cron", "x")), codes.InvalidArgument,
			"./out/cron"},
		"no archive": {dev(func(e *imageEditor, name string) { e.Write(name, []byte("x")) }), codes.InvalidArgument,
			"gzip"},
		"missing": {dev(func(e *imageEditor, name string) { e.Remove(name) }), codes.InvalidArgument, "tmpfs-dev-"},
	} {
		t.Run(name, func(t *testing.T) { g.refusesEdited(t, c.change, c.code, c.word) })
	}
	t.Run("twin", func(t *testing.T) {
		g.accepts(t, g.archive, func(c *harness.Container) {
			if got := c.Exec("/bin/sh", "-c", "cat /dev/link; stat -c %F /dev/fifo /dev/null; readlink "+
				"/dev/ptmx"); got != "kept\nfifo\ncharacter special file\npts/ptmx\n" {
				t.Errorf("/dev has %q", got)
			}
		})
	})
	t.Run("edited twin", func(t *testing.T) {
		g.accepts(t, editImages(t, g.archive, files(criutest.File("./added", "x\n"))), func(c *harness.Container) {
			if got := c.Exec("cat", "/dev/added"); got != "x\n" {
				t.Errorf("/dev/added has %q", got)
			}
		})
	})
}
