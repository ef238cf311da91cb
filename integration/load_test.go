package integration

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// loadRestores is how many restores there are at once in the tests of load.
const loadRestores = 32

const runningSeries, waitingSeries = `containerd_cri_restore_concurrent_restores{state="running"}`,
	`containerd_cri_restore_concurrent_restores{state="waiting"}`

// TestLoad asks for 32 restores at once, half of them of one image, the others of an archive and of four more images,
// eager and lazy. No more work at a time than the configuration says, all succeed, and ordinary containers are created
// and started meanwhile without standing in that queue.
func TestLoad(t *testing.T) {
	address := freeAddress(t)
	// All pods are of one namespace, which leaves one turn to others: two restores work at a time.
	n := harness.New(t, harness.WithRestoreConfig(chaosConfig+"\nmax_concurrent_restores = 3\n"),
		harness.WithLogLevel("info"),
		harness.WithConfig(fmt.Sprintf("[plugins.'io.containerd.server.v1.metrics']\naddress = %q\n", address)))
	type source struct {
		name    string
		counted int
	}
	var archive source
	archive.name, archive.counted = pagesCheckpoint(t, n, "16", "1")
	image := source{publishedImageOf(t, n, archive.name, ""), archive.counted}
	others := make([]source, 4)
	for i := range others {
		other, counted := pagesCheckpoint(t, n, "16", "1")
		others[i] = source{publishedImageOf(t, n, other, ""), counted}
	}
	sourceOf := func(i int) source {
		switch i / 2 % 4 {
		case 0, 2:
			return image
		case 1:
			return archive
		default:
			return others[i/8]
		}
	}
	ordinary, eager, lazy := n.Pod(t), n.Pod(t), n.Pod(t, harness.PodAnnotation("org.criu.restore/lazy-pages", "on"))
	before := n.Inventory(t)
	var (
		wg     sync.WaitGroup
		all    [loadRestores]*harness.Container
		failed [loadRestores]error
		began  = time.Now()
	)
	for i := range loadRestores {
		wg.Go(func() {
			pod := []*harness.Pod{eager, lazy}[i%2]
			if all[i], failed[i] = pod.TryCreate(fmt.Sprintf("restored-%d", i), sourceOf(i).name); failed[i] == nil {
				failed[i] = all[i].TryStart()
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	var (
		took          []time.Duration
		most, waiting int
	)
	for over := false; !over; {
		var running, waits int
		_, _ = fmt.Sscan(metric(t, address, runningSeries), &running)
		_, _ = fmt.Sscan(metric(t, address, waitingSeries), &waits)
		most, waiting = max(most, running), max(waiting, waits)
		at := time.Now()
		c := ordinary.Run(unique("ordinary"), n.Image(harness.Busybox), harness.Counting())
		took = append(took, time.Since(at))
		c.Remove()
		forgetLog(t, c)
		select {
		case <-done:
			over = true
		default:
		}
	}
	total := time.Since(began)
	for i, err := range failed {
		if err != nil {
			t.Errorf("restore %d: %v", i, err)
		}
	}
	if t.Failed() {
		return
	}
	slices.Sort(took)
	t.Logf("%d restores took %v; meanwhile %d ordinary containers, %v to %v each; at most %d restores at work, %d waiting",
		loadRestores, total, len(took), took[0], took[len(took)-1], most, waiting)
	if most > 2 || waiting == 0 {
		t.Errorf("at most %d restores worked and %d waited, want no more than 2, and some", most, waiting)
	}
	// In the queue an ordinary container would wait for most of the restores.
	if len(took) < 3 || took[len(took)/2] > total/3 {
		t.Errorf("ordinary containers took %v while the restores took %v", took, total)
	}
	for i, c := range all {
		requireOKContinues(t, c, sourceOf(i).counted)
	}
	for _, c := range all {
		c.Remove()
		forgetLog(t, c)
	}
	n.RequireNoLeak(t, before)
	if got := metric(t, address, runningSeries); got != "0" {
		t.Errorf("%s is %s when all is over", runningSeries, got)
	}
}

// TestLoadGivesUp: who waits for a turn in vain is told so before the deadline, and whose caller has gone leaves the
// queue.
func TestLoadGivesUp(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(broughtToCRIU+"\nmax_concurrent_restores = 1\n"))
	honest, counted := countingCheckpoint(t, n)
	pod := n.Pod(t)
	before := n.Inventory(t)
	// CRIU reads for ever what is not there (TestFailureCRIUHangs).
	hangs := pod.Create("hangs", broken(t, honest, "checkpoint/pages-1.img", func(b []byte) []byte { return b[:4096] }))
	waits := pod.Create("waits", honest)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- startIn(ctx, hangs) }()
	eventually(t, "CRIU at work", func() bool { return criuOf(hangs.ID) != 0 })
	short, end := context.WithTimeout(t.Context(), 20*time.Second)
	requireRefused(t, startIn(short, waits), codes.ResourceExhausted, waits.ID, "max_concurrent_restores")
	if short.Err() != nil {
		t.Error("the answer came after the deadline")
	}
	end()
	short, end = context.WithTimeout(t.Context(), 15*time.Second)
	defer end()
	_, err := n.Runtime().CreateContainer(short, &runtime.CreateContainerRequest{
		PodSandboxId: pod.ID, SandboxConfig: pod.Config, Config: &runtime.ContainerConfig{
			Metadata: &runtime.ContainerMetadata{Name: "more"}, Image: &runtime.ImageSpec{Image: honest}, LogPath: "more.log",
		},
	})
	requireRefused(t, err, codes.ResourceExhausted, "max_concurrent_restores")
	cancel()
	if got := status.Code(<-result); got != codes.Canceled {
		t.Errorf("start that hangs: %v", got)
	}
	requireSettles(t, hangs)
	for _, c := range []*harness.Container{hangs, waits} {
		c.Remove()
		forgetLog(t, c)
	}
	n.RequireNoLeak(t, before)
	next := pod.Run("waits", honest)
	requireContinues(t, next, counted)
}
