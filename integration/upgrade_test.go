package integration

import (
	"encoding/json"
	"testing"

	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/anypb"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestUpgrade swaps containerd for the unchanged one of its version and back, under restored containers: they run on,
// are seen, stopped and removed by either, and what only our build knows of is removed when it is back.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	stock := stockContainerd(t)
	n := harness.New(t, harness.WithRestoreConfig(chaosConfig))
	archive, counted := pagesCheckpoint(t, n, "32", "2")
	image := publishedImageOf(t, n, archive, "")
	pod, lazy := n.Pod(t), n.Pod(t, harness.PodAnnotation("org.criu.restore/lazy-pages", "on"))
	before := n.Inventory(t)
	run := func(p *harness.Pod, name, source string) *harness.Container {
		c := p.Run(name, source)
		requireOKContinues(t, c, counted)
		return c
	}
	gone, stays, drains := run(pod, "gone", archive), run(pod, "stays", image), lazy.Run("drains", image)
	percent(t, drains, 5)
	pids := map[string]int{}
	for _, c := range []*harness.Container{gone, stays, drains} {
		pids[c.ID] = c.Pid()
	}
	requireRuns := func(binary string, c *harness.Container) {
		t.Helper()
		if st := c.Status(); st.GetState() != runtime.ContainerState_CONTAINER_RUNNING || c.Pid() != pids[c.ID] {
			t.Errorf("%s containerd: container %s is %s, process %d, want %d", binary, c.Config.GetMetadata().GetName(),
				st.GetState(), c.Pid(), pids[c.ID])
		}
		said := numbers(c.Log(), "ok")
		waitOK(t, c, said[len(said)-1]+2)
	}

	n.Reconfigure(harness.WithBinary(stock))
	percent(t, drains, 0) // its memory arrives without us
	for _, c := range []*harness.Container{gone, stays, drains} {
		requireRuns("stock", c)
	}
	if got := stays.Exec("echo", "here"); got != "here\n" {
		t.Errorf("exec with stock containerd: %q", got)
	}
	gone.Stop(0)
	gone.Remove()
	forgetLog(t, gone)

	n.Reconfigure(harness.WithBinary(""))
	for _, c := range []*harness.Container{stays, drains} {
		requireRuns("our", c)
		if c.Stats().GetMemory().GetWorkingSetBytes().GetValue() == 0 {
			t.Errorf("no statistics of %s after the way back", c.Config.GetMetadata().GetName())
		}
	}
	waitDrained(t, drains)
	requireOKContinues(t, pod.Run("gone", archive), counted) // the name is free
	for _, c := range []*harness.Container{stays, drains} {
		again := checkpointOf(t, c)
		c.Stop(0)
		c.Remove()
		forgetLog(t, c)
		next := pod.Run(unique("next"), again)
		waitOK(t, next, counted+2)
	}
	pod.Remove()
	lazy.Remove()
	n.RequireNoLeak(t, before)
}

// TestUpgradeRecords reads the records of an older plugin, and refuses one of a newer plugin by its version. The
// container of the latter can be removed, and what is its own stays until then.
func TestUpgradeRecords(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(chaosConfig))
	archive, counted := countingCheckpoint(t, n)
	pod := n.Pod(t)
	before := n.Inventory(t)

	// Of the first release: version 1, and nothing of what came since.
	older := pod.Create("older", archive)
	changeRecord(t, n, older.ID, func(record map[string]any) {
		record["version"] = 1
		for _, key := range []string{"tcp", "lazy", "draining", "pagesLost", "times"} {
			delete(record, key)
		}
	})
	n.Restart()
	older.Start()
	requireContinues(t, older, counted)
	older.Remove()
	forgetLog(t, older)
	n.RequireNoLeak(t, before)

	newer := pod.Create("newer", archive)
	made := n.Inventory(t)
	changeRecord(t, n, newer.ID, func(record map[string]any) { record["version"] = 99 })
	for range 2 {
		n.Restart()
	}
	if lost := made.Diff(n.Inventory(t)); len(lost) > 0 {
		t.Errorf("removed of a newer plugin's restore: %q", lost)
	}
	requireRefused(t, newer.TryStart(), codes.FailedPrecondition, newer.ID, "version 99", "up to 1",
		"use the newer plugin again, or remove the container")
	newer.Remove()
	forgetLog(t, newer)
	n.Inventory(t) // waits for the garbage collection, which a restart would cut short
	n.Restart()    // nobody knew what was the restore's
	n.RequireNoLeak(t, before)
	twin := pod.Run("newer", archive)
	requireContinues(t, twin, counted)
}

// changeRecord changes the restore record of a container as another version of the plugin would have written it.
func changeRecord(t *testing.T, n *harness.Node, id string, change func(map[string]any)) {
	t.Helper()
	const extension = "org.criu.restore/record"
	store := n.Client().ContainerService()
	c, err := store.Get(n.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	old := c.Extensions[extension]
	record := map[string]any{}
	if err := json.Unmarshal(old.GetValue(), &record); err != nil {
		t.Fatal(err)
	}
	change(record)
	value, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	c.Extensions = map[string]typeurl.Any{extension: &anypb.Any{TypeUrl: old.GetTypeUrl(), Value: value}}
	if _, err := store.Update(n.Context(), c, "extensions."+extension); err != nil {
		t.Fatal(err)
	}
}
