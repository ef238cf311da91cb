package integration

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// requirePlugin fails the test unless ctr lists the plugin with that status, "" for not
// at all, and its details have the words. Runs of spaces count as one.
func requirePlugin(t *testing.T, n *harness.Node, status string, words ...string) {
	t.Helper()
	n = n.In(t)
	got := ""
	for line := range strings.Lines(n.Ctr("plugins", "ls")) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[0] == "io.containerd.cri.v1" && fields[1] == "restore" {
			got = fields[len(fields)-1]
		}
	}
	if got != status {
		t.Errorf("ctr plugins ls: io.containerd.cri.v1 restore is %q, want %q", got, status)
	}
	details := strings.Join(strings.Fields(n.Ctr("plugins", "ls", "--detailed", "id==restore")), " ")
	for _, word := range words {
		if !strings.Contains(details, word) {
			t.Errorf("ctr plugins ls --detailed does not say %q: %s", word, details)
		}
	}
}

// TestPolicyPlugin looks at the plugin of a node that can restore.
func TestPolicyPlugin(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	requirePlugin(t, n, "ok", "criu_path "+n.Tools().CRIU, "criu_version 4.", "allow_archives false")
}

// TestPolicyOff turns the plugin off in both ways. The node must then be like a stock
// containerd, for checkpoints too, and restore again when the plugin is on.
func TestPolicyOff(t *testing.T) {
	t.Parallel()
	r := harness.NewRegistry(t)
	off := harness.WithRestoreConfig(`enable = false`)
	n, stock := harness.New(t, harness.WithRegistry(r), off), harness.New(t, harness.WithRegistry(r), stockBinary(t))
	archive, counted := countingCheckpoint(t, n)
	image := imageOf(t, n, archive)
	stock.Pull(image)
	stockArchive := filepath.Join(stock.Dir(), filepath.Base(archive))
	if err := os.Link(archive, stockArchive); err != nil {
		t.Fatal(err)
	}
	pod, stockPod := n.Pod(t), stock.Pod(t)
	likeStock := func(t *testing.T) {
		t.Helper()
		ordinary(t, pod, n.Image(harness.Busybox)).Remove()
		for _, test := range []struct{ ours, stock string }{
			{image, image}, {archive, stockArchive}, {r.Ref("none:1"), r.Ref("none:1")}, {"/", "/"}, {"", ""},
		} {
			before := n.Inventory(t)
			_, ours := pod.TryCreate("same", test.ours)
			_, theirs := stockPod.TryCreate("same", test.stock)
			n.RequireNoLeak(t, before)
			requireSame(t, test.ours, ours, theirs, archive, stockArchive)
		}
		// With a command a checkpoint image is an image without that program.
		ours, err := pod.TryCreate("same", image, harness.Command("/bin/true"))
		if err != nil {
			t.Fatalf("checkpoint image with the plugin off: %v", err)
		}
		theirs := stockPod.Create("same", image, harness.Command("/bin/true"))
		requireSame(t, "start", ours.TryStart(), theirs.TryStart())
		ours.Remove()
		theirs.Remove()
	}

	requirePlugin(t, n, "skip", "enable = false")
	likeStock(t)
	n.Reconfigure(harness.WithRestoreConfig(`enable = true`))
	requirePlugin(t, n, "ok")
	restored(t, pod, image, counted).Remove()

	// What was created while the plugin was on does not begin from its base image now.
	prepared := pod.Create("prepared", image)
	n.Reconfigure(off)
	requireRefused(t, prepared.TryStart(), codes.FailedPrecondition, prepared.ID, "enable = false")
	prepared.Remove()

	n.Reconfigure(harness.WithRestoreConfig(`enable = true`),
		harness.WithConfig(`disabled_plugins = ["io.containerd.cri.v1.restore"]`))
	requirePlugin(t, n, "")
	likeStock(t)
	n.Reconfigure(harness.WithConfig(`disabled_plugins = []`))
	requirePlugin(t, n, "ok")
	restored(t, pod, image, counted)
}

// TestPolicyUnable makes the node unable to restore in several ways: ordinary containers
// run, and a checkpoint is refused with the reason that the plugin's status shows.
func TestPolicyUnable(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	archive, counted := countingCheckpoint(t, n)
	image := imageOf(t, n, archive)
	pod := n.Pod(t)
	prepared, dropped := pod.Create("prepared", image), pod.Create("dropped", image)

	old := t.TempDir()
	if err := os.WriteFile(filepath.Join(old, "criu"), []byte("#!/bin/sh\necho Version: 3.17.1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	broken := t.TempDir()
	if err := os.WriteFile(filepath.Join(broken, "criu"),
		[]byte("#!/bin/sh\n[ $1 != check ] || { echo 'Error: the kernel is too old' >&2; exit 1; }\necho Version: 4.1.1\n"),
		0o755); err != nil {
		t.Fatal(err)
	}
	path := func(dir string) harness.Option { return harness.WithEnv("PATH=" + dir + ":" + n.Tools().Path()) }
	for _, test := range []struct {
		name   string
		opts   []harness.Option
		status string
		words  []string
	}{
		{"no CRIU", []harness.Option{harness.WithCRIU(false)}, "skip", []string{"no criu in PATH", "install CRIU"}},
		{"old CRIU", []harness.Option{harness.WithCRIU(true), path(old)}, "skip",
			[]string{old + "/criu", "3.17.1", "install a newer CRIU"}},
		{"CRIU that fails", []harness.Option{path(broken)}, "ok", []string{broken + "/criu"}},
		{"bad values", []harness.Option{path("/nonexistent"),
			harness.WithRestoreConfig("allowed_images = [\"[\"]\nbase_image_pull_timeout = \"soon\"\nmax_entries = 0")},
			"error", []string{"allowed_images", "base_image_pull_timeout", "soon", "max_entries", "invalid configuration"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			n.Reconfigure(test.opts...)
			requirePlugin(t, n, test.status, test.words...)
			if test.status == "ok" {
				// criu check runs after the start, so that the status cannot tell.
				test.words = append(test.words, "the kernel is too old")
				waitDaemonLog(t, n, append(test.words, "this node cannot restore checkpoints")...)
			}
			ordinary(t, pod, n.Image(harness.Busybox)).Remove()
			for _, checkpoint := range []string{image, archive} {
				refused(t, pod, checkpoint, codes.FailedPrecondition, append(test.words, checkpoint, "cannot restore")...)
			}
			// One that was created when the node could must not begin from its base image.
			requireRefused(t, prepared.TryStart(), codes.FailedPrecondition, append(test.words, "cannot restore")...)
		})
	}
	dropped.Remove() // what its restore needed goes when the plugin is back
	n.Reconfigure(harness.WithRestoreConfig("allowed_images = [\"**\"]\nbase_image_pull_timeout = \"30m\"\nmax_entries " +
		"= 250000"))
	requirePlugin(t, n, "ok")
	restored(t, pod, image, counted)
	prepared.Start()
	requireContinues(t, prepared, counted)
}

// TestPolicyLoopback starts containerd before the loopback interface is up, which CRIU does not get on with. Nothing
// but the interface has to be mended.
func TestPolicyLoopback(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	wrapper := filepath.Join(t.TempDir(), "containerd")
	script := "#!/bin/sh\nexec unshare -n " + filepath.Join(n.Tools().Bin, "containerd") + " \"$@\"\n"
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	archive, _ := countingCheckpoint(t, n)
	n.Reconfigure(harness.WithBinary(wrapper))
	pod := n.Pod(t, harness.PodHostNetwork())
	const remedy = "ip link set lo up"
	waitDaemonLog(t, n, "this node cannot restore checkpoints", remedy)
	counter := pod.Run("counter", n.Image(harness.Busybox), harness.Counting())
	refused(t, pod, archive, codes.FailedPrecondition, archive, "cannot restore", remedy)

	up := exec.Command("nsenter", "--net=/proc/"+strconv.Itoa(n.DaemonPid())+"/ns/net", "ip", "link", "set", "lo", "up")
	if out, err := up.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	counted := counter.WaitCount(5)
	archive = filepath.Join(n.Dir(), "up.tar")
	counter.Checkpoint(archive)
	counter.Remove()
	restored(t, n.Pod(t, harness.PodHostNetwork()), archive, counted)
	waitDaemonLog(t, n, "this node can restore checkpoints now")
}
