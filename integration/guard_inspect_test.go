package integration

import (
	"os"
	"path/filepath"
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/criu"
)

// TestGuardInspects breaks what CRIU makes, after everything was verified and forced, as a bug of CRIU, runc or the
// plugin would: a root that can be written, a capability, a user more. What comes back is killed before it has run, and
// the start says why. A node that only audits runs it and counts it.
func TestGuardInspects(t *testing.T) {
	t.Parallel()
	address := freeAddress(t)
	metrics := harness.WithConfig("[plugins.'io.containerd.server.v1.metrics']\n  address = '" + address + "'\n")
	n := harness.New(t, harness.WithRestoreConfig(allowArchives), metrics)
	g := newFamilyGrant(t, n, append(restricted(0), harness.Mount(t.TempDir(), "/mnt", true))...)
	cases := map[string]struct {
		change func(*imageEditor)
		words  []string
		check  string
	}{
		"writable root": {func(e *imageEditor) {
			e.Mount("/", func(m *mnt.MntEntry) { m.Flags = proto.Uint32(m.GetFlags() &^ unix.MS_RDONLY) })
		}, []string{"mount /", "flags", "allowed ro"}, "mounts"},
		"writable volume": {func(e *imageEditor) {
			e.Mount("/mnt", func(m *mnt.MntEntry) { m.Flags = proto.Uint32(m.GetFlags() &^ unix.MS_RDONLY) })
		}, []string{"mount /mnt", "flags", "allowed ro"}, "mounts"},
		"devices": {func(e *imageEditor) {
			e.Mount("/sys", func(m *mnt.MntEntry) { m.Flags = proto.Uint32(m.GetFlags() &^ unix.MS_NODEV) })
		}, []string{"mount /sys", "nodev"}, "mounts"},
		"capability": {raiseBounding, []string{"process 1", "CapBnd"}, "credentials"},
		"group of the last process": {func(e *imageEditor) {
			e.Core(e.LastProcess(), func(c *criu_core.CoreEntry) {
				c.ThreadCore.Creds.Groups = append(c.ThreadCore.Creds.Groups,
					4242)
			})
		}, []string{"groups", "4242"}, "credentials"},
		"no_new_privs": {func(e *imageEditor) {
			e.EachThread(func(_ uint32, c *criu_core.CoreEntry) { setNumber(c.ThreadCore.Creds, credsNoNewPrivs, 0) })
		}, []string{"process 1", "NoNewPrivs"}, "credentials"},
		"no seccomp filter": {func(e *imageEditor) {
			e.EachThread(func(_ uint32, c *criu_core.CoreEntry) {
				c.ThreadCore.SeccompMode, c.ThreadCore.SeccompFilter = nil, nil
			})
		}, []string{"process 1", "Seccomp", "mode 0"}, "seccomp"},
	}
	if v, err := criu.CheckVersion(t.Context(), n.Tools().CRIU); err != nil {
		t.Fatal(err)
	} else if v < 40200 {
		// of which this CRIU takes no flag from the image: it is read-only as the guard has made its source
		delete(cases, "writable root")
	}
	restore := func(t *testing.T, change func(*imageEditor)) (*harness.Container, error) {
		t.Helper()
		c := g.pod.Create("victim", g.archive, g.opts...)
		breakImages(t, n, c, change)
		return c, c.TryStart()
	}
	for what, tc := range cases {
		t.Run(what, func(t *testing.T) {
			before := n.Inventory(t)
			c, err := restore(t, tc.change)
			requireRefused(t, err, codes.PermissionDenied, append(tc.words, "more than its pod was granted")...)
			requireSilent(t, c)
			c.Remove()
			forgetLog(t, c)
			n.RequireNoLeak(t, before)
		})
	}
	t.Run("honest", func(t *testing.T) {
		c, err := restore(t, func(*imageEditor) {})
		if err != nil {
			t.Fatal(err)
		}
		requireContinues(t, c, g.counted)
		c.Remove()
		forgetLog(t, c)
	})
	n.Reconfigure(harness.WithRestoreConfig(broughtToCRIU), metrics)
	for what, tc := range cases {
		t.Run("audit, "+what, func(t *testing.T) {
			c, err := restore(t, tc.change)
			if err != nil {
				t.Fatal(err)
			}
			requireContinues(t, c, g.counted)
			c.Remove()
			forgetLog(t, c)
			waitDaemonLog(t, n, append(tc.words, "would have killed", c.ID)...)
			if got := metric(t, address, `containerd_cri_restore_inspection_findings_total{check="`+tc.check+`"}`); got == "" ||
				got == "0" {
				t.Errorf("findings: %q", got)
			}
		})
	}
}

// TestGuardInspectsSharedPID is TestGuardInspects in a PID namespace that CRIU joins, and the guard with it.
func TestGuardInspectsSharedPID(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	pod := n.Pod(t, harness.PodSharedPID())
	// A restored process needs the PID that it had.
	pod.Run("first", n.Image(harness.Busybox), harness.Shell("for i in $(seq 100); do /bin/true; done")).WaitExited()
	old := pod.Run("counter", n.Image(harness.Busybox), harness.Counting())
	counted := old.WaitCount(5)
	archive := checkpointOf(t, old)
	pod.Remove()
	pod = n.Pod(t, harness.PodSharedPID())
	before := n.Inventory(t)
	c := pod.Create("victim", archive)
	breakImages(t, n, c, raiseBounding)
	requireRefused(t, c.TryStart(), codes.PermissionDenied, "CapBnd", "more than its pod was granted")
	c.Remove()
	forgetLog(t, c)
	n.RequireNoLeak(t, before)
	requireContinues(t, pod.Run("honest", archive), counted)
}

// breakImages changes the images that CRIU is going to read: those that the plugin has written for it, and the
// checkpoint's own.
func breakImages(t *testing.T, n *harness.Node, c *harness.Container, change func(*imageEditor)) {
	t.Helper()
	dir := filepath.Join(n.Root(), "io.containerd.cri.v1.restore", c.Status().GetAnnotations()["org.criu.restore/id"])
	forced := filepath.Join(dir, "images") // mounted over the checkpoint's, whatever is there
	e := &imageEditor{t: t, dir: t.TempDir()}
	for _, from := range []string{filepath.Join(dir, "archive", "checkpoint"), forced} {
		for _, name := range fileNames(t, from) {
			content, err := os.ReadFile(filepath.Join(from, name))
			if err != nil {
				t.Fatal(err)
			}
			e.Write(name, content)
		}
	}
	was := map[string]string{}
	for _, name := range e.Names() {
		was[name] = string(e.Read(name))
	}
	change(e)
	for _, name := range e.Names() {
		if content := string(e.Read(name)); was[name] != content {
			writeFile(t, filepath.Join(forced, name), content)
		}
	}
}
