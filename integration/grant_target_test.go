package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// grant is what a pod is given: a request for a container, and a checkpoint that keeps to it.
type grant struct {
	n       *harness.Node
	pod     *harness.Pod
	opts    []harness.ContainerOpt
	archive string
	counted int
	prefix  string // of the lines that the process counts with
}

// newGrant checkpoints a container that was created with the options, and makes a pod for a restore with the same.
func newGrant(t *testing.T, n *harness.Node, opts ...harness.ContainerOpt) *grant {
	t.Helper()
	g := &grant{n: n, opts: opts, prefix: "count"}
	g.archive, g.counted = countingCheckpoint(t, n, opts...)
	g.pod = n.Pod(t)
	return g
}

// newThreadsGrant is newGrant for a process with threads.
func newThreadsGrant(t *testing.T, n *harness.Node, opts ...harness.ContainerOpt) *grant {
	t.Helper()
	g := &grant{n: n, opts: opts, prefix: "ok"}
	pod := n.Pod(t)
	c := pod.Run("counter", workloadImage(t, n), append([]harness.ContainerOpt{workload("threads")}, opts...)...)
	g.counted = waitOK(t, c, 3)
	g.archive = checkpointOf(t, c)
	pod.Remove()
	g.pod = n.Pod(t)
	return g
}

// newFamilyGrant is newGrant for a process with a child.
func newFamilyGrant(t *testing.T, n *harness.Node, opts ...harness.ContainerOpt) *grant {
	t.Helper()
	return newGrant(t, n, append(opts,
		harness.Shell(`sleep 100000 & i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`))...)
}

// refuses fails the test unless the creation of a container from the doctored checkpoint is
// refused, with an error that says all the words, and nothing is left of it.
func (g *grant) refuses(t *testing.T, archive string, code codes.Code, words ...string) {
	t.Helper()
	before, logs := g.n.Inventory(t), fileNames(t, g.pod.Config.GetLogDirectory())
	c, err := g.pod.TryCreate("victim", archive, g.opts...)
	if err == nil {
		what := "it could be started"
		if err := c.TryStart(); err != nil {
			what = "its start failed: " + err.Error()
		} else {
			what += fmt.Sprint(": ", processStatus(t, c))
		}
		c.Remove()
		forgetLog(t, c)
		t.Fatalf("a container was created from a checkpoint that brings too much, and %s", what)
	}
	requireRefused(t, err, code, words...)
	g.n.RequireNoLeak(t, before)
	if after := fileNames(t, g.pod.Config.GetLogDirectory()); !slices.Equal(logs, after) {
		t.Errorf("log directory: %q, want %q as before", after, logs)
	}
}

// refusesEdited is refuses for an edit of the honest checkpoint's images.
func (g *grant) refusesEdited(t *testing.T, change func(*imageEditor), code codes.Code, words ...string) {
	t.Helper()
	g.refuses(t, editImages(t, g.archive, change), code, words...)
}

// accepts restores a checkpoint, which has to go on counting. What it is like then is for use to
// see, which may be nil; afterwards nothing may be left.
func (g *grant) accepts(t *testing.T, archive string, use func(*harness.Container)) {
	t.Helper()
	before := g.n.Inventory(t)
	c := g.pod.Run("victim", archive, g.opts...)
	if g.prefix == "ok" {
		requireOKContinues(t, c, g.counted)
	} else {
		requireContinues(t, c, g.counted)
	}
	if use != nil {
		use(c)
	}
	c.Remove()
	forgetLog(t, c)
	g.n.RequireNoLeak(t, before)
}

// restricted is the security context that the Pod Security Standard "restricted" asks for, and a
// root file system that cannot be written.
func restricted(uid int64) []harness.ContainerOpt {
	return []harness.ContainerOpt{harness.ReadonlyRootfs(),
		harness.Security(func(s *runtime.LinuxContainerSecurityContext) {
			s.RunAsUser = &runtime.Int64Value{Value: uid}
			s.RunAsGroup = &runtime.Int64Value{Value: uid}
			s.Capabilities = &runtime.Capability{DropCapabilities: []string{"ALL"}}
			s.NoNewPrivs = true
			s.Seccomp = &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
		})}
}

// appUser is a user of the image.
const appUser = 1000

// newRestrictedGrant is the grant of a pod as the Pod Security Standard "restricted" has it: a process of appUser is
// checkpointed, and what it is given for its restore is the same.
func newRestrictedGrant(t *testing.T, n *harness.Node,
	create func(*testing.T, *harness.Node, ...harness.ContainerOpt) *grant) *grant {
	t.Helper()
	return create(t, n, restricted(appUser)...)
}

// groupsOf returns the groups that an ordinary container gets for the request, as its OCI spec has them.
func groupsOf(t *testing.T, g *grant) []uint32 {
	t.Helper()
	c := g.pod.Create("ordinary", g.n.Image(harness.Busybox), append(slices.Clone(g.opts), harness.Counting())...)
	defer c.Remove()
	return specOf(t, c).Process.User.AdditionalGids
}

// editCreds changes the credentials of one thread.
func (e *imageEditor) editCreds(tid uint32, change func(*creds.CredsEntry)) {
	e.t.Helper()
	e.Core(tid, func(core *criu_core.CoreEntry) { change(core.GetThreadCore().GetCreds()) })
}

// statusFields are those that say what a thread may do.
var statusFields = []string{
	"Name", "Pid", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
	"Seccomp_filters",
}

// processStatus returns proc(5)'s status of every thread in the container's cgroup, by field.
func processStatus(t *testing.T, c *harness.Container) []map[string]string {
	t.Helper()
	var all []map[string]string
	for _, pid := range strings.Fields(readFile(t, filepath.Join(cgroupDir(t, c, "memory"), "cgroup.procs"))) {
		for _, tid := range fileNames(t, filepath.Join("/proc", pid, "task")) {
			content, err := os.ReadFile(filepath.Join("/proc", pid, "task", tid, "status"))
			if err != nil {
				continue // it has ended meanwhile
			}
			fields := map[string]string{}
			for _, line := range strings.Split(string(content), "\n") {
				name, value, _ := strings.Cut(line, ":")
				if slices.Contains(statusFields, name) {
					fields[name] = strings.Join(strings.Fields(value), " ")
				}
			}
			all = append(all, fields)
		}
	}
	if len(all) == 0 {
		t.Fatalf("container %s has no process", c.ID)
	}
	return all
}

// requireStatus fails the test unless every thread of the container has these fields.
func requireStatus(t *testing.T, c *harness.Container, want map[string]string) {
	t.Helper()
	for _, status := range processStatus(t, c) {
		for field, value := range want {
			if status[field] != value {
				t.Errorf("%s of thread %s (%s): %q, want %q", field, status["Pid"], status["Name"], status[field], value)
			}
		}
	}
}

// restrictedStatus is what a restricted process is like to the kernel.
func restrictedStatus() map[string]string {
	ids, none := strings.TrimSpace(strings.Repeat(strconv.Itoa(appUser)+" ", 4)), strings.Repeat("0", 16)
	return map[string]string{
		"Uid": ids, "Gid": ids, "CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none,
		"NoNewPrivs": "1", "Seccomp": "2",
	}
}
