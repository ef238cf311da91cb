package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

const hearCommands = `pod_annotations = ["before-checkpoint", "after-checkpoint", "after-restore"]`

// The example of docs/kubernetes.md: a server that holds a lease, and has read its token.
const leaseServer = `token=/var/run/secrets/kubernetes.io/serviceaccount/token
mkdir -p /tmp/app
begin() { rm -f /tmp/app/quiet; secret=$(cat $token); hostname >/tmp/app/lease; echo "holds the lease as $secret"; }
trap 'rm -f /tmp/app/lease; echo quiet; : >/tmp/app/quiet' USR1
trap begin USR2
begin
while :; do sleep 0.1; done`

// commandOf asks for a command in the container "app".
func commandOf(annotation string, args ...string) harness.PodOpt {
	value, err := json.Marshal(map[string][]string{"app": args})
	if err != nil {
		panic(err)
	}
	return harness.PodAnnotation("org.criu.restore/"+annotation, string(value))
}

var (
	quiesce   = commandOf("before-checkpoint", "sh", "-c", "kill -USR1 1; until [ -e /tmp/app/quiet ]; do sleep 0.1; done")
	goOn      = commandOf("after-checkpoint", "sh", "-c", "kill -USR2 1")
	beginAnew = commandOf("after-restore", "sh", "-c", "id -u; kill -USR2 1")
)

// ranAfterRestore is what "crictl inspect" shows of the command.
func ranAfterRestore(t *testing.T, c *harness.Container) (did struct {
	ExitCode int32
	Output   string
	Error    string
},
) {
	t.Helper()
	resp, err := c.Pod.Node().Runtime().ContainerStatus(t.Context(),
		&runtime.ContainerStatusRequest{ContainerId: c.ID, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(resp.GetInfo()["after-restore"]), &did); err != nil {
		t.Fatalf("info %q: %v", resp.GetInfo(), err)
	}
	return did
}

// TestTakePart has a program take part in its checkpoint and its restore, by the example of the page, as a user who is
// not root.
func TestTakePart(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(hearCommands))
	before := n.Inventory(t)
	withToken := func(token string) []harness.ContainerOpt {
		dir := t.TempDir()
		writeFile(t, filepath.Join(dir, "token"), token)
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		return append(restricted(appUser)[1:], harness.Shell(leaseServer),
			harness.Mount(dir, "/var/run/secrets/kubernetes.io/serviceaccount", true))
	}
	pod := n.Pod(t, quiesce, goOn, beginAnew)
	c := pod.Run("app", n.Image(harness.Busybox), withToken("first token")...)
	c.WaitLine("holds the lease as first token")
	archive := checkpointOf(t, c)
	// The one that was checkpointed has let go of the lease, and has taken it again.
	c.WaitLog(func(lines []string) bool {
		return strings.HasSuffix(strings.Join(lines, "\n"),
			"holds the lease as first token\nquiet\nholds the lease as first token")
	})
	// In an ordinary container no command runs.
	if resp, err := n.Runtime().ContainerStatus(t.Context(),
		&runtime.ContainerStatusRequest{ContainerId: c.ID, Verbose: true}); err != nil ||
		resp.GetInfo()["after-restore"] != "" {
		t.Errorf("info %q, %v", resp.GetInfo(), err)
	}
	pod.Remove()

	pod = n.Pod(t, beginAnew)
	c = pod.Run("app", archive, withToken("second token")...)
	c.WaitLog(func(lines []string) bool {
		return strings.HasSuffix(strings.Join(lines, "\n"),
			"holds the lease as first token\nquiet\nholds the lease as second token")
	})
	if did := ranAfterRestore(t, c); did.ExitCode != 0 || did.Output != "1000\n" || did.Error != "" {
		t.Errorf("the command: %+v", did)
	}
	pod.Remove()

	// A pod that asks for nothing gets nothing: the program is still quiet.
	pod = n.Pod(t)
	c = pod.Run("app", archive, withToken("third token")...)
	if got := c.Exec("ls", "/tmp/app"); got != "quiet\n" {
		t.Errorf("files of the program: %q", got)
	}
	pod.Remove()
	n.RequireNoLeak(t, before)
}

// TestTakePartFails has commands fail: before a checkpoint there is none, after a restore the container runs on.
func TestTakePartFails(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(hearCommands),
		harness.WithRestoreConfig(`command_timeout = "2s"`))
	var archive string
	for name, tc := range map[string]struct {
		before harness.PodOpt
		code   codes.Code
		words  []string
	}{
		"status": {commandOf("before-checkpoint", "sh", "-c", "echo not now; echo busy >&2; exit 3"),
			codes.FailedPrecondition, []string{"before-checkpoint", "status 3", "not now", "busy"}},
		"time": {commandOf("before-checkpoint", "sleep", "1000"), codes.DeadlineExceeded,
			[]string{"before-checkpoint", "which may take 2s"}},
		"program": {commandOf("before-checkpoint", "/nowhere"), codes.Unknown, []string{"before-checkpoint", "/nowhere"}},
		"no JSON": {harness.PodAnnotation("org.criu.restore/before-checkpoint", "/bin/quiesce"), codes.InvalidArgument,
			[]string{"before-checkpoint", "JSON object"}},
		"fine":      {commandOf("before-checkpoint", "true"), codes.OK, nil},
		"another's": {harness.PodAnnotation("org.criu.restore/before-checkpoint", `{"sidecar": ["false"]}`), codes.OK, nil},
	} {
		t.Run(name, func(t *testing.T) {
			n := n.In(t)
			pod := n.Pod(t, tc.before, commandOf("after-checkpoint", "sh", "-c", "echo over >> /over"))
			before := n.Inventory(t)
			c := pod.Run("app", n.Image(harness.Busybox), harness.Counting())
			c.WaitCount(2)
			file := filepath.Join(n.Dir(), unique("checkpoint")+".tar")
			err := c.TryCheckpoint(file)
			if tc.code == codes.OK {
				if err != nil {
					t.Fatal(err)
				}
				archive = file
			} else {
				requireRefused(t, err, tc.code, tc.words...)
				if _, err := os.Lstat(file); err == nil {
					t.Error("there is a checkpoint all the same")
				}
			}
			c.WaitCount(harness.Count(c.Log()) + 2)
			if name != "no JSON" { // of which nothing is known
				if got := c.Exec("cat", "/over"); got != "over\n" {
					t.Errorf("the second command: %q", got)
				}
			}
			if got := c.Exec("ps", "-o", "args"); strings.Contains(got, "sleep 1000") {
				t.Errorf("the command still runs:\n%s", got)
			}
			c.Remove()
			forgetLog(t, c)
			n.RequireNoLeak(t, before)
			pod.Remove()
		})
	}
	for name, tc := range map[string]struct {
		args []string
		code int32
		says string
	}{
		"after a restore, status": {[]string{"sh", "-c", "echo no token; exit 4"}, 4, "no token"},
		"after a restore, time":   {[]string{"sleep", "1000"}, 0, "deadline"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := n.In(t).Pod(t, commandOf("after-restore", tc.args...))
			c := pod.Run("app", archive)
			if did := ranAfterRestore(t, c); did.ExitCode != tc.code || !strings.Contains(did.Output+did.Error, tc.says) {
				t.Errorf("the command: %+v", did)
			}
			requireContinues(t, c, 2)
			if log := n.DaemonLog(); !strings.Contains(log, "may not know that it was restored") {
				t.Error("the log does not say so")
			}
			pod.Remove()
		})
	}
}

// TestTakePartOnce: while a program takes part in a checkpoint another request is refused, and does not tell the
// program that all is over.
func TestTakePartOnce(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives), harness.WithRestoreConfig(hearCommands))
	pod := n.Pod(t, commandOf("before-checkpoint", "sh", "-c", "touch /begun; until [ -e /go ]; do sleep 0.1; done"),
		commandOf("after-checkpoint", "sh", "-c", "echo over >> /over"))
	c := pod.Run("app", n.Image(harness.Busybox), harness.Counting())
	c.WaitCount(2)
	first := make(chan error, 1)
	archive := filepath.Join(n.Dir(), "first.tar")
	go func() { first <- c.TryCheckpoint(archive) }()
	c.Exec("sh", "-c", "until [ -e /begun ]; do sleep 0.1; done")
	second := filepath.Join(n.Dir(), "second.tar")
	requireRefused(t, c.TryCheckpoint(second), codes.Aborted, "is being checkpointed by another request")
	c.Exec("sh", "-c", "[ ! -e /over ] && touch /go")
	if err := <-first; err != nil {
		t.Fatal(err)
	}
	if got := c.Exec("cat", "/over"); got != "over\n" {
		t.Errorf("the second command: %q", got)
	}
	if err := c.TryCheckpoint(second); err != nil { // as nobody holds it any longer
		t.Fatal(err)
	}
	pod.Remove()
	requireContinues(t, n.Pod(t).Run("app", archive), 2)
}

// TestTakePartUnheard: on a node that hears no commands a pod that asks for them is not checkpointed without them, nor
// restored.
func TestTakePartUnheard(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	pod := n.Pod(t)
	c := pod.Run("app", n.Image(harness.Busybox), harness.Counting())
	c.WaitCount(2)
	archive := checkpointOf(t, c)
	asking := n.Pod(t, quiesce)
	c = asking.Run("app", n.Image(harness.Busybox), harness.Counting())
	requireRefused(t, c.TryCheckpoint(filepath.Join(n.Dir(), "refused.tar")), codes.PermissionDenied, "before-checkpoint",
		"pod_annotations")
	_, err := n.Pod(t, beginAnew).TryCreate("app", archive)
	requireRefused(t, err, codes.PermissionDenied, "after-restore", "pod_annotations")
	requireContinues(t, pod.Run("restored", archive), 2)
}
