package integration

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/rlimit"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/siginfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timer"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestGrantLimits gives a checkpoint more of the node than a new container would get (T30).
func TestGrantLimits(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newThreadsGrant(t, n)

	// Precedence over others can be neither forced, nor had otherwise.
	for _, tc := range []struct {
		what, word string
		change     func(*criu_core.ThreadCoreEntry)
	}{
		{"nice", "nice", func(c *criu_core.ThreadCoreEntry) { c.SchedNice = proto.Int32(-20) }},
		{"a little nice", "nice", func(c *criu_core.ThreadCoreEntry) { c.SchedNice = proto.Int32(-1) }},
		{"FIFO", "scheduling", func(c *criu_core.ThreadCoreEntry) {
			c.SchedPolicy, c.SchedPrio = proto.Uint32(unix.SCHED_FIFO), proto.Uint32(99)
		}},
		{"round robin", "scheduling", func(c *criu_core.ThreadCoreEntry) {
			c.SchedPolicy, c.SchedPrio = proto.Uint32(unix.SCHED_RR), proto.Uint32(1)
		}},
		{"deadline", "scheduling", func(c *criu_core.ThreadCoreEntry) { c.SchedPolicy = proto.Uint32(unix.SCHED_DEADLINE) }},
	} {
		t.Run(tc.what, func(t *testing.T) {
			var tid uint32
			archive := editImages(t, g.archive, func(e *imageEditor) {
				tid = e.LastThread()
				e.Core(tid, func(c *criu_core.CoreEntry) { tc.change(c.GetThreadCore()) })
			})
			g.refuses(t, archive, codes.PermissionDenied, fmt.Sprintf("thread %d", tid), tc.word, "found", "allowed")
		})
	}
	t.Run("timer that wakes up the node", func(t *testing.T) {
		g.refusesEdited(t, func(e *imageEditor) {
			e.Core(1, func(c *criu_core.CoreEntry) {
				c.Tc.Timers.Posix = []*timer.PosixTimerEntry{{
					ItId: proto.Uint32(0), ClockId: proto.Uint32(unix.CLOCK_BOOTTIME_ALARM), SiSigno: proto.Uint32(14),
					ItSigevNotify: proto.Uint32(0),
					SivalPtr:      proto.Uint64(0), Overrun: proto.Uint32(0), Isec: proto.Uint64(0), Insec: proto.Uint64(0),
					Vsec: proto.Uint64(3600), Vnsec: proto.Uint64(0),
				}}
			})
		}, codes.PermissionDenied, "process 1", "timer")
	})
	t.Run("no limits", func(t *testing.T) {
		// The process would have those of CRIU, which has raised them.
		g.refusesEdited(t, func(e *imageEditor) { e.Core(1, func(c *criu_core.CoreEntry) { c.Tc.Rlimits = nil }) },
			codes.InvalidArgument, "core-1.img")
	})
	t.Run("a limit missing", func(t *testing.T) {
		g.refusesEdited(t, func(e *imageEditor) {
			e.Core(1, func(c *criu_core.CoreEntry) { c.Tc.Rlimits.Rlimits = c.Tc.Rlimits.Rlimits[:7] })
		}, codes.InvalidArgument, "core-1.img")
	})
	t.Run("short signal", func(t *testing.T) {
		// CRIU copies 128 bytes of it.
		g.refusesEdited(t, func(e *imageEditor) {
			e.Core(1, func(c *criu_core.CoreEntry) { c.Tc.SignalsS.Signals = []*siginfo.SiginfoEntry{{Siginfo: []byte{1}}} })
		}, codes.InvalidArgument, "core-1.img")
	})

	// These can be forced without harm to the process.
	const score = 500
	g.opts = []harness.ContainerOpt{harness.Resources(func(r *runtime.LinuxContainerResources) { r.OomScoreAdj = score })}
	ordinary := g.pod.Run("ordinary", n.Image(harness.Busybox), append(g.opts, harness.Counting())...)
	ordinary.WaitCount(1)
	allowed := hardLimits(t, ordinary)
	raised := editImages(t, g.archive, func(e *imageEditor) {
		e.Core(1, func(c *criu_core.CoreEntry) {
			c.Tc.OomScoreAdj, c.Tc.Loginuid = proto.Int32(-999), proto.Uint32(1001)
			for i := range c.Tc.Rlimits.Rlimits {
				const infinity = 1<<64 - 1
				c.Tc.Rlimits.Rlimits[i] = &rlimit.RlimitEntry{Cur: proto.Uint64(infinity), Max: proto.Uint64(infinity)}
			}
		})
	})
	for what, archive := range map[string]string{"forced": raised, "forced, from an image": imageOf(t, n, raised),
		"twin": g.archive} {
		t.Run(what, func(t *testing.T) {
			g.accepts(t, archive, func(c *harness.Container) {
				for file, want := range map[string]string{"oom_score_adj": strconv.Itoa(score), "loginuid": "4294967295"} {
					if got := strings.TrimSpace(readFile(t, filepath.Join("/proc", strconv.Itoa(c.Pid()), file))); got != want {
						t.Errorf("%s: %s, want %s", file, got, want)
					}
				}
				for name, limit := range hardLimits(t, c) {
					if limit > allowed[name] {
						t.Errorf("limit %s: %d, want %d or less", name, limit, allowed[name])
					}
				}
			})
		})
	}
}

// hardLimits returns the hard limits of the container's first process, by their name in proc(5).
func hardLimits(t *testing.T, c *harness.Container) map[string]uint64 {
	t.Helper()
	out := map[string]uint64{}
	for _, line := range strings.Split(readFile(t, fmt.Sprintf("/proc/%d/limits", c.Pid())), "\n")[1:] {
		if len(line) < 47 { // name, soft limit, hard limit, unit in columns
			continue
		}
		hard := strings.Fields(line[46:])[0]
		value := uint64(1<<64 - 1)
		if hard != "unlimited" {
			var err error
			if value, err = strconv.ParseUint(hard, 10, 64); err != nil {
				t.Fatalf("limits: %q: %v", line, err)
			}
		}
		out[strings.TrimSpace(line[:26])] = value
	}
	if len(out) != 16 {
		t.Fatalf("%d limits, want 16", len(out))
	}
	return out
}
