package verify

import (
	"fmt"
	"strings"
	"testing"

	core_aarch64 "github.com/checkpoint-restore/go-criu/v7/crit/images/core-aarch64"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/siginfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/timer"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// honest returns what a process of rootSpec has on node, so that nothing of it has to be replaced.
func honest(change ...func(*criu_core.CoreEntry)) *criu_core.CoreEntry {
	return criutest.Core(append([]func(*criu_core.CoreEntry){func(c *criu_core.CoreEntry) {
		c.Tc.OomScoreAdj = proto.Int32(1000)
	}}, change...)...)
}

// TestLimits compares what is refused, and what a container may have by its spec or by its capabilities.
func TestLimits(t *testing.T) {
	node(t)
	posix := func(clock uint32) func(*criu_core.CoreEntry) {
		return func(c *criu_core.CoreEntry) {
			zero := proto.Uint64(0)
			c.Tc.Timers.Posix = append(c.Tc.Timers.Posix, &timer.PosixTimerEntry{
				ItId: proto.Uint32(3), ClockId: &clock, SiSigno: proto.Uint32(14), ItSigevNotify: proto.Uint32(0), SivalPtr: zero, Overrun: proto.Uint32(0),
				Isec: zero, Insec: zero, Vsec: zero, Vnsec: zero,
			})
		}
	}
	sched := func(policy uint32, nice int32, priority uint32) func(*criu_core.CoreEntry) {
		return func(c *criu_core.CoreEntry) {
			c.ThreadCore.SchedPolicy, c.ThreadCore.SchedNice, c.ThreadCore.SchedPrio = &policy, &nice, &priority
		}
	}
	scheduler := func(policy specs.LinuxSchedulerPolicy, nice, priority int32) func(*specs.Process) {
		return func(p *specs.Process) {
			p.Scheduler = &specs.Scheduler{Policy: policy, Nice: nice, Priority: priority}
		}
	}
	rlimit := func(kind string, hard uint64) func(*specs.Process) {
		return func(p *specs.Process) { p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: kind, Hard: hard}) }
	}
	const set = criutest.Capabilities
	for name, c := range map[string]struct {
		spec   *specs.Spec
		attack func(*criu_core.CoreEntry)
		field  string // "": not refused
	}{
		"nothing":                 {rootSpec(set), func(*criu_core.CoreEntry) {}, ""},
		"batch":                   {rootSpec(set), sched(unix.SCHED_BATCH, 19, 0), ""},
		"idle":                    {rootSpec(set), sched(unix.SCHED_IDLE, 0, 0), ""},
		"ordinary, reset on fork": {rootSpec(set), sched(unix.SCHED_NORMAL|resetOnFork, 0, 0), ""},
		"no policy": {rootSpec(set), func(c *criu_core.CoreEntry) {
			c.ThreadCore.SchedPolicy = nil
			c.ThreadCore.SchedNice = proto.Int32(-20)
		}, ""},
		"nice -1":                          {rootSpec(set), sched(unix.SCHED_NORMAL, -1, 0), "nice"},
		"nice -20, batch":                  {rootSpec(set), sched(unix.SCHED_BATCH, -20, 0), "nice"},
		"nice -20 with SYS_NICE":           {rootSpec(set | capSysNice), sched(unix.SCHED_NORMAL, -20, 0), ""},
		"nice -5 by the spec":              {rootSpec(set, scheduler(specs.SchedOther, -5, 0)), sched(unix.SCHED_NORMAL, -5, 0), ""},
		"nice -6, -5 by the spec":          {rootSpec(set, scheduler(specs.SchedOther, -5, 0)), sched(unix.SCHED_NORMAL, -6, 0), "nice"},
		"nice -5 by its limit":             {rootSpec(set, rlimit("RLIMIT_NICE", 25)), sched(unix.SCHED_NORMAL, -5, 0), ""},
		"nice -6, -5 by its limit":         {rootSpec(set, rlimit("RLIMIT_NICE", 25)), sched(unix.SCHED_NORMAL, -6, 0), "nice"},
		"nice without limit":               {rootSpec(set, rlimit("RLIMIT_NICE", criutest.Infinity)), sched(unix.SCHED_NORMAL, -20, 0), ""},
		"real time":                        {rootSpec(set), sched(unix.SCHED_FIFO, 0, 1), "scheduling policy"},
		"round robin":                      {rootSpec(set), sched(unix.SCHED_RR, 0, 1), "scheduling policy"},
		"real time, reset on fork":         {rootSpec(set), sched(unix.SCHED_FIFO|resetOnFork, 0, 1), "scheduling policy"},
		"real time with SYS_NICE":          {rootSpec(set | capSysNice), sched(unix.SCHED_FIFO, 0, 99), ""},
		"real time by the spec":            {rootSpec(set, scheduler(specs.SchedFIFO, 0, 5)), sched(unix.SCHED_FIFO, 0, 5), ""},
		"higher than by the spec":          {rootSpec(set, scheduler(specs.SchedFIFO, 0, 5)), sched(unix.SCHED_FIFO, 0, 6), "scheduling priority"},
		"another policy than by the spec":  {rootSpec(set, scheduler(specs.SchedFIFO, 0, 5)), sched(unix.SCHED_RR, 0, 5), "scheduling policy"},
		"nice behind real time":            {rootSpec(set, scheduler(specs.SchedFIFO, 0, 5)), sched(unix.SCHED_FIFO, -20, 5), "nice"},
		"real time by its limit":           {rootSpec(set, rlimit("RLIMIT_RTPRIO", 7)), sched(unix.SCHED_RR, 0, 7), ""},
		"higher than by its limit":         {rootSpec(set, rlimit("RLIMIT_RTPRIO", 7)), sched(unix.SCHED_RR, 0, 8), "scheduling priority"},
		"deadline":                         {rootSpec(set), sched(unix.SCHED_DEADLINE, 0, 0), "scheduling policy"},
		"a policy that there is not":       {rootSpec(set), sched(4, 0, 0), "scheduling policy"},
		"timer":                            {rootSpec(set), posix(unix.CLOCK_REALTIME), ""},
		"timer of another thread's time":   {rootSpec(set), posix(1<<32 - 6), ""},
		"alarm":                            {rootSpec(set), posix(unix.CLOCK_REALTIME_ALARM), "clock of timer 3"},
		"alarm since boot":                 {rootSpec(set), posix(unix.CLOCK_BOOTTIME_ALARM), "clock of timer 3"},
		"alarm with WAKE_ALARM":            {rootSpec(set | capWakeAlarm), posix(unix.CLOCK_BOOTTIME_ALARM), ""},
		"a signal at the parent's death":   {rootSpec(set), func(c *criu_core.CoreEntry) { c.ThreadCore.PdeathSig = proto.Uint32(9) }, ""},
		"adopts orphans":                   {rootSpec(set), func(c *criu_core.CoreEntry) { c.Tc.ChildSubreaper = proto.Bool(true) }, ""},
		"a personality, not restored":      {rootSpec(set), func(c *criu_core.CoreEntry) { c.Tc.Personality = proto.Uint32(0xffffffff) }, ""},
		"signals":                          {rootSpec(set), signals(128, 128), ""},
		"the last timer":                   {rootSpec(set), timerID(1 << 24), ""},
		"a timer to count to":              {rootSpec(set), timerID(1<<24 + 1), "timer"},
		"the registers of arm64":           {rootSpec(set), arm64Registers(31), ""},
		"alarm of a user that could be":    {restrictedScore(), posix(unix.CLOCK_REALTIME_ALARM), "clock of timer 3"},
		"real time of a user with a limit": {restrictedScore(rlimit("RLIMIT_RTPRIO", 1)), sched(unix.SCHED_FIFO, 0, 1), ""},
	} {
		t.Run(name, func(t *testing.T) {
			for object, tasks := range map[string][]criutest.Task{
				"process 1": {{PID: 1, Core: honest(c.attack)}},
				"process 4": {{PID: 1, Core: honest()}, {PID: 4, Core: honest(c.attack)}},
			} {
				report, err := compared(t, criutest.Tasks(tasks...), c.spec, (*verifier).limits)
				if err != nil {
					t.Fatal(err)
				}
				if len(report.Replaced) != 0 {
					t.Errorf("replaced %v", report.Replaced)
				}
				if c.field == "" {
					if err := report.Err(); err != nil {
						t.Errorf("refused: %v", err)
					}
					continue
				}
				if !errdefs.IsPermissionDenied(report.Err()) || report.Total != 1 || report.ByCheck["limits"] != 1 {
					t.Fatalf("error %v, %d findings, want one", report.Err(), report.Total)
				}
				if f := report.Findings[0]; f.Object != object || f.Field != c.field {
					t.Errorf("found %s, want %s of %s", f, c.field, object)
				}
			}
		})
	}
	t.Run("thread", func(t *testing.T) {
		thread := criutest.Thread(sched(unix.SCHED_FIFO, 0, 1))
		report, err := compared(t, criutest.Tasks(criutest.Task{PID: 1, Core: honest(), Threads: map[uint32]*criu_core.CoreEntry{5: thread}}), rootSpec(set), (*verifier).limits)
		if err != nil || report.Total != 1 || report.Findings[0].Object != "process 1, thread 5" {
			t.Errorf("%v, %v", err, report.Err())
		}
	})
}

// restrictedScore is a restricted pod with the OOM score of honest.
func restrictedScore(change ...func(*specs.Process)) *specs.Spec { return restricted(change...) }

// signals queues signals with so many bytes for the process and for its thread.
func signals(process, thread int) func(*criu_core.CoreEntry) {
	return func(c *criu_core.CoreEntry) {
		c.Tc.SignalsS.Signals = []*siginfo.SiginfoEntry{{Siginfo: make([]byte, process)}}
		c.ThreadCore.SignalsP.Signals = []*siginfo.SiginfoEntry{{Siginfo: make([]byte, thread)}}
	}
}

func timerID(id uint32) func(*criu_core.CoreEntry) {
	return func(c *criu_core.CoreEntry) {
		zero := proto.Uint64(0)
		c.Tc.Timers.Posix = []*timer.PosixTimerEntry{{
			ItId: &id, ClockId: proto.Uint32(0), SiSigno: proto.Uint32(14), ItSigevNotify: proto.Uint32(0), SivalPtr: zero, Overrun: proto.Uint32(0),
			Isec: zero, Insec: zero, Vsec: zero, Vnsec: zero,
		}}
	}
}

func arm64Registers(n int) func(*criu_core.CoreEntry) {
	return func(c *criu_core.CoreEntry) {
		zero := proto.Uint64(0)
		c.TiAarch64 = &core_aarch64.ThreadInfoAarch64{
			ClearTidAddr: zero, Tls: zero,
			Gpregs: &core_aarch64.UserAarch64RegsEntry{Regs: make([]uint64, n), Sp: zero, Pc: zero, Pstate: zero},
			Fpsimd: &core_aarch64.UserAarch64FpsimdContextEntry{Vregs: make([]uint64, 64), Fpsr: proto.Uint32(0), Fpcr: proto.Uint32(0)},
		}
	}
}

func TestLimitsMalformed(t *testing.T) {
	node(t)
	for name, attack := range map[string]func(*criu_core.CoreEntry){
		"no limits":                  func(c *criu_core.CoreEntry) { c.Tc.Rlimits = nil },
		"a limit too few":            func(c *criu_core.CoreEntry) { c.Tc.Rlimits.Rlimits = c.Tc.Rlimits.Rlimits[1:] },
		"a limit too many":           func(c *criu_core.CoreEntry) { r := c.Tc.Rlimits; r.Rlimits = append(r.Rlimits, r.Rlimits[0]) },
		"no timers":                  func(c *criu_core.CoreEntry) { c.Tc.Timers = nil },
		"no signals":                 func(c *criu_core.CoreEntry) { c.Tc.SignalsS = nil },
		"no signals of the thread":   func(c *criu_core.CoreEntry) { c.ThreadCore.SignalsP = nil },
		"nothing of the thread":      func(c *criu_core.CoreEntry) { c.ThreadCore = nil },
		"short signal":               signals(127, 128),
		"short signal of the thread": signals(128, 0),
		"long signal":                signals(129, 128),
		"a register too few":         arm64Registers(30),
		"a register too many":        arm64Registers(32),
		"no register":                arm64Registers(0),
	} {
		t.Run(name, func(t *testing.T) {
			for _, spec := range []*specs.Spec{rootSpec(criutest.Capabilities), rootSpec(allCapabilities)} {
				if report, err := compared(t, criutest.Tasks(criutest.Task{PID: 1, Core: honest()}), spec, (*verifier).limits); err != nil || report.Total != 0 {
					t.Fatalf("the honest twin: %v, %v", err, report.Err())
				}
				_, err := compared(t, criutest.Tasks(criutest.Task{PID: 1, Core: honest(attack)}), spec, (*verifier).limits)
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "core-1.img") {
					t.Errorf("error %v, want invalid argument about the image", err)
				}
			}
		})
	}
}

// TestForcedLimits decodes what CRIU reads in the place of the image.
func TestForcedLimits(t *testing.T) {
	node(t)
	const file, stack = unix.RLIMIT_NOFILE, unix.RLIMIT_STACK
	limits := func(n int, soft, hard uint64) func(*criu_core.CoreEntry) {
		return func(c *criu_core.CoreEntry) {
			c.Tc.Rlimits.Rlimits[n].Cur, c.Tc.Rlimits.Rlimits[n].Max = &soft, &hard
		}
	}
	wantLimits := func(n int, soft, hard uint64) func(*criu_core.CoreEntry) error {
		return func(c *criu_core.CoreEntry) error {
			if r := c.Tc.Rlimits.Rlimits[n]; r.GetCur() != soft || r.GetMax() != hard {
				return fmt.Errorf("limit %d is %d, at most %d", n, r.GetCur(), r.GetMax())
			}
			return nil
		}
	}
	score := func(s int) func(*specs.Process) { return func(p *specs.Process) { p.OOMScoreAdj = &s } }
	oom := func(s int32) func(*criu_core.CoreEntry) {
		return func(c *criu_core.CoreEntry) { c.Tc.OomScoreAdj = &s }
	}
	noOOM := func(c *criu_core.CoreEntry) { c.Tc.OomScoreAdj = nil }
	wantOOM := func(s int32) func(*criu_core.CoreEntry) error {
		return func(c *criu_core.CoreEntry) error {
			if c.Tc.GetOomScoreAdj() != s {
				return fmt.Errorf("OOM score %d", c.Tc.GetOomScoreAdj())
			}
			return nil
		}
	}
	const set = criutest.Capabilities
	for name, c := range map[string]struct {
		spec  *specs.Spec
		image func(*criu_core.CoreEntry)
		want  func(*criu_core.CoreEntry) error // nil: it is not replaced
	}{
		"limits of the node":              {rootSpec(set), limits(file, 1000, 1000), nil},
		"hard limit":                      {rootSpec(set), limits(file, 100, 1001), wantLimits(file, 100, 1000)},
		"both limits":                     {rootSpec(set), limits(stack, criutest.Infinity, criutest.Infinity), wantLimits(stack, 1000, 1000)},
		"soft above hard":                 {rootSpec(set), limits(stack, criutest.Infinity, 1000), nil}, // CRIU takes the lower one
		"nice":                            {rootSpec(set), limits(unix.RLIMIT_NICE, 40, 40), wantLimits(unix.RLIMIT_NICE, 0, 0)},
		"of a root with SYS_RESOURCE":     {rootSpec(set | capSysResource), limits(file, criutest.Infinity, criutest.Infinity), nil},
		"more by the spec":                {rootSpec(set, hardLimit("RLIMIT_NOFILE", 2000)), limits(file, 2000, 2000), nil},
		"less by the spec":                {rootSpec(set, hardLimit("RLIMIT_NOFILE", 10)), limits(file, 1000, 1000), wantLimits(file, 10, 10)},
		"another one by the spec":         {rootSpec(set, hardLimit("RLIMIT_CORE", 2000)), limits(file, 2000, 2000), wantLimits(file, 1000, 1000)},
		"score of the spec":               {rootSpec(set), oom(1000), nil},
		"another score":                   {rootSpec(set), oom(-999), wantOOM(1000)},
		"no score":                        {rootSpec(set), noOOM, wantOOM(1000)},
		"a higher score":                  {rootSpec(set, score(-997)), oom(1000), wantOOM(-997)},
		"score of a privileged container": {rootSpec(allCapabilities), oom(-1000), wantOOM(1000)},
		// CRIU writes no zero: the process would keep CRIU's own.
		"score zero":             {rootSpec(set, score(0)), oom(0), wantOOM(1)},
		"score zero, none":       {rootSpec(set, score(0)), noOOM, wantOOM(1)},
		"score zero, forced":     {rootSpec(set, score(0)), oom(1), nil},
		"no score in the spec":   {rootSpec(set, func(p *specs.Process) { p.OOMScoreAdj = nil }), oom(-1000), wantOOM(0)},
		"no score anywhere":      {rootSpec(set, func(p *specs.Process) { p.OOMScoreAdj = nil }), noOOM, nil},
		"no score but zero":      {rootSpec(set, func(p *specs.Process) { p.OOMScoreAdj = nil }), oom(0), nil},
		"login":                  {rootSpec(set), func(c *criu_core.CoreEntry) { c.Tc.Loginuid = proto.Uint32(1000) }, wantLogin},
		"login root, privileged": {rootSpec(allCapabilities), func(c *criu_core.CoreEntry) { c.Tc.Loginuid = proto.Uint32(0) }, wantLogin},
		"no login":               {rootSpec(set), func(c *criu_core.CoreEntry) { c.Tc.Loginuid = proto.Uint32(unset) }, nil},
		"login is not recorded":  {rootSpec(set), func(c *criu_core.CoreEntry) { c.Tc.Loginuid = nil }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			// A child: it is not only the first process that has it.
			files := criutest.Tasks(criutest.Task{PID: 1, Core: honest(c.image)}, criutest.Task{PID: 9, Core: honest(c.image)})
			report, err := compared(t, files, c.spec, (*verifier).limits)
			if err != nil || report.Total != 0 {
				t.Fatal(err, report.Err())
			}
			if c.want == nil {
				if len(report.Replaced) != 0 {
					t.Errorf("replaced %v", report.Replaced)
				}
				return
			}
			for _, pid := range []uint32{1, 9} {
				got := decoded(t, report, pid)
				if err := c.want(got); err != nil {
					t.Error(err)
				}
				// Nothing else may have changed, not even what go-criu does not know.
				was := honest(c.image)
				was.Tc.Rlimits, was.Tc.OomScoreAdj, was.Tc.Loginuid = got.Tc.Rlimits, got.Tc.OomScoreAdj, got.Tc.Loginuid
				if !proto.Equal(was, got) {
					t.Errorf("the image has changed elsewhere: %v", got)
				}
			}
			again, err := compared(t, withReplaced(files, report), c.spec, (*verifier).limits)
			if err != nil || again.Total != 0 || len(again.Replaced) != 0 {
				t.Errorf("what was forced is forced again: %v, %v", err, again.Replaced)
			}
		})
	}
}

func hardLimit(kind string, hard uint64) func(*specs.Process) {
	return func(p *specs.Process) { p.Rlimits = append(p.Rlimits, specs.POSIXRlimit{Type: kind, Hard: hard}) }
}

func wantLogin(c *criu_core.CoreEntry) error {
	if c.Tc.GetLoginuid() != unset {
		return fmt.Errorf("loginuid %d", c.Tc.GetLoginuid())
	}
	return nil
}

// withReplaced is what CRIU sees.
func withReplaced(files map[string]string, r *Report) map[string]string {
	for name, data := range r.Replaced {
		files[name] = string(data)
	}
	return files
}

// TestProcessesOfARestrictedPod is a whole tree of processes and threads, one of them dead, as a node would see it:
// accepted as it is under the security context it was taken in, and refused under a stricter one.
func TestProcessesOfARestrictedPod(t *testing.T) {
	node(t)
	user := func(c *criu_core.CoreEntry) { asRestricted(c.ThreadCore.Creds) }
	tree := criutest.Tasks(
		criutest.Task{PID: 1, Core: honest(user), Threads: map[uint32]*criu_core.CoreEntry{2: criutest.Thread(user), 3: criutest.Thread(user)}},
		criutest.Task{PID: 10, Core: honest(user)},
		criutest.Task{PID: 11, Parent: 10, Core: honest(user), Threads: map[uint32]*criu_core.CoreEntry{12: criutest.Thread(user)}},
		criutest.Task{PID: 13, Parent: 10, Core: criutest.Zombie()},
	)
	checks := []func(*verifier) error{(*verifier).credentials, (*verifier).limits}
	report, err := compared(t, tree, restricted(), checks...)
	if err != nil || report.Total != 0 || len(report.Replaced) != 0 {
		t.Fatalf("%v, %v, replaced %d", err, report.Err(), len(report.Replaced))
	}
	other := restricted(func(p *specs.Process) { p.User.UID = 1001 })
	if report, err = compared(t, tree, other, checks...); err != nil || report.ByCheck["credentials"] != 6*4 {
		t.Errorf("%v, %v", err, report.ByCheck)
	}
	privileged := criutest.Tasks(criutest.Task{PID: 1, Core: honest(func(c *criu_core.CoreEntry) {
		c.ThreadCore.Creds.CapBnd = criutest.Words(allCapabilities)
		c.ThreadCore.Creds.CapPrm = criutest.Words(allCapabilities)
		c.ThreadCore.Creds.CapEff = criutest.Words(allCapabilities)
	})})
	if report, err = compared(t, privileged, rootSpec(allCapabilities), checks...); err != nil || report.Total != 0 {
		t.Errorf("privileged into privileged: %v, %v", err, report.Err())
	}
	if report, err = compared(t, privileged, restricted(), checks...); err != nil || !errdefs.IsPermissionDenied(report.Err()) {
		t.Errorf("privileged into restricted: %v, %v", err, report.Err())
	}
}
