package verify

import (
	"encoding/binary"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
	bpfilter "github.com/cri-restore/cri-restore/internal/seccomp"
)

// profiled is a pod with containerd's default profile, honest the filter that runc made of it.
func profiled(t testing.TB, change ...func(*specs.LinuxSeccomp)) *specs.Spec {
	t.Helper()
	s := podSpec()
	s.Linux.Seccomp = &specs.LinuxSeccomp{}
	if err := json.Unmarshal(recordedSeccomp(t, "default.json"), s.Linux.Seccomp); err != nil {
		t.Fatal(err)
	}
	for _, f := range change {
		f(s.Linux.Seccomp)
	}
	return s
}

// recordedSeccomp reads a profile or a filter that a real runtime made of it.
func recordedSeccomp(t testing.TB, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("../seccomp/testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// bpfOf is a filter of instructions, each by its code, jumps and constant.
func bpfOf(code ...[4]uint32) []byte {
	var out []byte
	for _, in := range code {
		out = binary.NativeEndian.AppendUint16(out, uint16(in[0]))
		out = append(out, byte(in[1]), byte(in[2]))
		out = binary.NativeEndian.AppendUint32(out, in[3])
	}
	return out
}

// letThrough puts a rule before a filter that allows one system call.
func letThrough(filter []byte, number uint32) []byte {
	return append(bpfOf([4]uint32{0x20, 0, 0, 0}, [4]uint32{0x15, 0, 1, number}, [4]uint32{0x06, 0, 0, 0x7fff0000}), filter...)
}

// one is a checkpoint of a process with one thread and these filters, which begin with the last.
func one(filters ...*seccomp.SeccompFilter) map[string]string {
	files := criutest.Tasks(criutest.Task{PID: 1, Core: criutest.Core(criutest.Filtered(uint32(len(filters) - 1)))})
	files["seccomp.img"] = criutest.Seccomp(filters...)
	return files
}

// several is a checkpoint of a process with three threads.
func several(first, second, third func(*criu_core.CoreEntry), filters ...*seccomp.SeccompFilter) map[string]string {
	files := criutest.Tasks(criutest.Task{PID: 1, Core: criutest.Core(first), Threads: map[uint32]*criu_core.CoreEntry{
		7: criutest.Thread(second), 9: criutest.Thread(third)}})
	files["seccomp.img"] = criutest.Seccomp(filters...)
	return files
}

func alone(filter []byte, flags uint32) *seccomp.SeccompFilter {
	return &seccomp.SeccompFilter{Filter: filter, Flags: &flags}
}

func unfiltered(*criu_core.CoreEntry) {}

func strict(core *criu_core.CoreEntry) {
	core.ThreadCore.SeccompMode = criu_core.SeccompMode_strict.Enum()
}

const (
	mountNumber, unshareNumber, bpfNumber = 165, 272, 321
	specAllow, newListener, logFlag       = 4, 8, 2
)

// TestSeccomp compares the filters of every thread with the pod's profile (T28).
func TestSeccomp(t *testing.T) {
	honest := recordedSeccomp(t, "default.bpf")
	sandbox := letThrough(bpfOf([4]uint32{0x06, 0, 0, 0x00050001}), 0) // only read
	all := bpfOf([4]uint32{0x06, 0, 0, 0x7fff0000})
	for what, tc := range map[string]struct {
		files map[string]string
		spec  *specs.Spec // the profiled one
		says  []string    // none: accepted
	}{
		"the same profile":        {files: one(criutest.Filter(honest))},
		"without a flag":          {files: one(alone(honest, 0))},
		"logged":                  {files: one(alone(honest, criutest.SyncThreads|logFlag))},
		"and one of the program":  {files: one(criutest.Filter(sandbox), criutest.Then(0, honest))},
		"a stricter one":          {files: one(criutest.Filter(recordedSeccomp(t, "none.bpf")))},
		"threads that share it":   {files: several(criutest.Filtered(0), unfiltered, unfiltered, criutest.Filter(honest))},
		"threads, each its own":   {files: several(criutest.Filtered(0), criutest.Filtered(1), criutest.Filtered(2), alone(honest, 0), alone(honest, 0), alone(honest, 0))},
		"threads, one with more":  {files: several(criutest.Filtered(0), criutest.Filtered(1), criutest.Filtered(3), alone(honest, 0), alone(honest, 0), alone(sandbox, 0), &seccomp.SeccompFilter{Filter: honest, Prev: proto.Uint32(2)})},
		"several processes":       {files: tasks(map[string]string{"seccomp.img": criutest.Seccomp(criutest.Filter(honest), criutest.Filter(honest))}, criutest.Core(criutest.Filtered(0)), criutest.Core(criutest.Filtered(1)))},
		"a zombie":                {files: tasks(map[string]string{"seccomp.img": criutest.Seccomp(criutest.Filter(honest))}, criutest.Core(criutest.Filtered(0)), criutest.Zombie())},
		"unconfined pod, nothing": {files: criutest.Tasks(criutest.Task{PID: 1}), spec: podSpec()},
		"unconfined pod, filters": {files: one(criutest.Filter(all), criutest.Then(0, honest)), spec: podSpec()},
		"unconfined pod, strict":  {files: tasks(map[string]string{"seccomp.img": criutest.Seccomp()}, criutest.Core(strict)), spec: podSpec()},
		"empty profile":           {files: criutest.Tasks(criutest.Task{PID: 1}), spec: profiled(t, func(s *specs.LinuxSeccomp) { *s = specs.LinuxSeccomp{} })},

		"no filter":                  {files: criutest.Tasks(criutest.Task{PID: 1}), says: []string{"process 1: seccomp mode: found disabled, allowed filter"}},
		"no filter in the image":     {files: tasks(map[string]string{"seccomp.img": criutest.Seccomp()}, criutest.Core()), says: []string{"process 1: seccomp mode: found disabled, allowed filter"}},
		"mode strict":                {files: tasks(map[string]string{"seccomp.img": criutest.Seccomp()}, criutest.Core(strict)), says: []string{"process 1: seccomp mode: found strict, allowed filter"}},
		"one that allows everything": {files: one(criutest.Filter(all)), says: []string{"process 1: seccomp filter: found ", " allowed", "more system calls", "allowed errno"}},
		"one system call more":       {files: one(criutest.Filter(letThrough(honest, mountNumber))), says: []string{"process 1: seccomp filter: found mount allowed, allowed errno", "profile"}},
		"unshare":                    {files: one(criutest.Filter(letThrough(honest, unshareNumber))), says: []string{"found unshare allowed, allowed errno"}},
		"bpf":                        {files: one(criutest.Filter(letThrough(honest, bpfNumber))), says: []string{"found bpf allowed, allowed errno"}},
		"of other capabilities":      {files: one(criutest.Filter(recordedSeccomp(t, "admin.bpf"))), says: []string{"mount allowed"}},
		"another engine's":           {files: one(criutest.Filter(recordedSeccomp(t, "podman.bpf"))), says: []string{"socket allowed with some arguments"}},
		"the profile's is not taken": {files: one(criutest.Filter(honest), criutest.Filter(all)), says: []string{"seccomp filter: found "}},
		"a thread without": {files: several(criutest.Filtered(0), criutest.Filtered(1), unfiltered, alone(honest, 0), alone(honest, 0)),
			says: []string{"process 1, thread 9: seccomp mode: found disabled, allowed filter"}},
		"a thread with one more": {files: several(criutest.Filtered(0), criutest.Filtered(1), criutest.Filtered(2), alone(honest, 0), alone(honest, 0), alone(letThrough(honest, mountNumber), 0)),
			says: []string{"process 1, thread 9: seccomp filter: found mount allowed, allowed errno"}},
		"a child without": {files: tasks(map[string]string{"seccomp.img": criutest.Seccomp(criutest.Filter(honest))}, criutest.Core(criutest.Filtered(0)), criutest.Core()),
			says: []string{"process 2: seccomp mode: found disabled, allowed filter"}},
		"speculation": {files: one(alone(honest, specAllow)), spec: profiled(t, func(s *specs.LinuxSeccomp) { s.Flags = []specs.LinuxSeccompFlag{} }),
			says: []string{"process 1: seccomp flags: found SECCOMP_FILTER_FLAG_SPEC_ALLOW"}},
		"a maze": {files: one(criutest.Filter(maze())), says: []string{"too many ways"}},
	} {
		t.Run(what, func(t *testing.T) {
			if tc.spec == nil {
				tc.spec = profiled(t)
			}
			report, err := compared(t, tc.files, tc.spec, (*verifier).seccomp)
			if err != nil {
				t.Fatal(err)
			}
			if err = report.Err(); len(tc.says) == 0 {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if !errdefs.IsPermissionDenied(err) || report.ByCheck["seccomp"] == 0 {
				t.Fatalf("error %v, want permission denied", err)
			}
			for _, word := range tc.says {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("the error does not say %q: %v", word, err)
				}
			}
		})
	}
	// A profile that has the flag, or no list, lets it be.
	for _, flags := range [][]specs.LinuxSeccompFlag{nil, {specs.LinuxSeccompFlagSpecAllow}} {
		spec := profiled(t, func(s *specs.LinuxSeccomp) { s.Flags = flags })
		if report, err := compared(t, one(alone(honest, specAllow)), spec, (*verifier).seccomp); err != nil || report.Err() != nil {
			t.Errorf("flags %v: %v, %v", flags, err, report.Err())
		}
	}
}

// tasks are processes with one thread each, the first one with PID 1, and further images.
func tasks(more map[string]string, cores ...*criu_core.CoreEntry) map[string]string {
	var list []criutest.Task
	for i, core := range cores {
		list = append(list, criutest.Task{PID: uint32(i + 1), Core: core})
	}
	files := criutest.Tasks(list...)
	for name, content := range more {
		files[name] = content
	}
	return files
}

// maze is a filter with more ways through it than can be gone.
func maze() []byte {
	var code [][4]uint32
	for i := range uint32(64) {
		code = append(code, [4]uint32{0x20, 0, 0, 16 + 4*(i%12)}, [4]uint32{0x45, 0, 1, 1 << (i / 12)}, [4]uint32{0x87})
	}
	return bpfOf(append(code, [4]uint32{0x06, 0, 0, 0x00050001})...)
}

// TestSeccompMalformed refuses images that CRIU does not write, in a pod without a profile too: some of them would
// make it install no filter, or a listener, or run forever.
func TestSeccompMalformed(t *testing.T) {
	honest := recordedSeccomp(t, "default.bpf")
	with := func(change func(*criu_core.CoreEntry), filters ...*seccomp.SeccompFilter) map[string]string {
		return tasks(map[string]string{"seccomp.img": criutest.Seccomp(filters...)}, criutest.Core(change))
	}
	var chain []*seccomp.SeccompFilter
	for i := range 40 {
		f := alone(append(slices.Repeat(bpfOf([4]uint32{0x20, 0, 0, 0}), 1000), bpfOf([4]uint32{0x06, 0, 0, 0x7fff0000})...), 0)
		if i > 0 {
			f.Prev = proto.Uint32(uint32(i - 1))
		}
		chain = append(chain, f)
	}
	for what, tc := range map[string]struct {
		files map[string]string
		says  string
	}{
		"no image":             {tasks(nil, criutest.Core(criutest.Filtered(0))), "core-1.img"},
		"no such filter":       {with(criutest.Filtered(1), criutest.Filter(honest)), "filter 1 does not exist"},
		"none named":           {with(func(c *criu_core.CoreEntry) { c.ThreadCore.SeccompMode = criu_core.SeccompMode_filter.Enum() }, criutest.Filter(honest)), "names no seccomp filter"},
		"a circle":             {with(criutest.Filtered(1), criutest.Then(1, honest), criutest.Then(0, honest)), "filter 0"},
		"itself":               {with(criutest.Filtered(0), criutest.Then(0, honest)), "filter 0"},
		"the next one":         {with(criutest.Filtered(0), criutest.Then(1, honest), criutest.Filter(honest)), "filter 0"},
		"half an instruction":  {one(criutest.Filter(honest[:len(honest)-3])), "filter 0"},
		"empty":                {one(criutest.Filter([]byte{})), "filter 0"},
		"too long":             {one(criutest.Filter(make([]byte, 8*4097))), "filter 0"},
		"no program":           {one(criutest.Filter(slices.Repeat([]byte{0xff}, 80))), "instruction 0"},
		"one that nobody has":  {one(criutest.Filter([]byte{1}), criutest.Filter(honest)), "filter 0"},
		"more than the kernel": {with(criutest.Filtered(39), chain...), "more seccomp filters than the kernel"},
		"a listener":           {one(alone(honest, newListener)), "flags 0x8"},
		"unknown flag":         {one(alone(honest, 0x10|criutest.SyncThreads)), "flags 0x10"},
		"two entries":          {tasks(map[string]string{"seccomp.img": criutest.Image("SECCOMP", &seccomp.SeccompEntry{}, &seccomp.SeccompEntry{})}, criutest.Core()), "2 entries"},
		"old filter":           {with(func(c *criu_core.CoreEntry) { c.Tc.OldSeccompFilter = proto.Uint32(0) }, criutest.Filter(honest)), "old CRIU"},
		"old mode over the new": {with(func(c *criu_core.CoreEntry) {
			criutest.Filtered(0)(c)
			c.Tc.OldSeccompMode = criu_core.SeccompMode_disabled.Enum()
		}, criutest.Filter(honest)), "old CRIU"},
		"no thread": {with(func(c *criu_core.CoreEntry) { c.ThreadCore = nil }), "nothing of the thread"},
		// The filters would not be installed, and CRIU would not notice.
		"for all and its own":      {several(criutest.Filtered(0), unfiltered, criutest.Filtered(1), criutest.Filter(honest), alone(honest, 0)), "would not be installed"},
		"for all and strict":       {several(criutest.Filtered(0), unfiltered, strict, criutest.Filter(honest)), "would not be installed"},
		"for all, from another":    {several(unfiltered, criutest.Filtered(0), unfiltered, criutest.Filter(honest)), "not the first thread"},
		"for all, only some":       {several(criutest.Filtered(1), unfiltered, unfiltered, alone(honest, 0), criutest.Then(0, honest)), "others are not"},
		"for all, only the second": {several(criutest.Filtered(1), unfiltered, unfiltered, criutest.Filter(honest), &seccomp.SeccompFilter{Filter: honest, Prev: proto.Uint32(0)}), "others are not"},
	} {
		t.Run(what, func(t *testing.T) {
			for _, spec := range []*specs.Spec{podSpec(), profiled(t)} {
				_, err := compared(t, tc.files, spec, (*verifier).seccomp)
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), tc.says) {
					t.Errorf("error %v, want invalid argument with %q", err, tc.says)
				}
			}
		})
	}
}

// A mode that does not exist is none for the decoder either. Here nothing may depend on that.
func TestSeccompMode(t *testing.T) {
	for mode, valid := range map[criu_core.SeccompMode]bool{0: true, 1: true, 2: true, 3: false, -1: false} {
		core := criutest.Core(criutest.Filtered(0))
		core.ThreadCore.SeccompMode = &mode
		check := &seccompCheck{v: &verifier{report: &Report{}}, filters: []*filter{{program: parsedSeccomp(t)}}}
		if err := check.process([]thread{{1, 1, core}}); valid != (err == nil) || !valid && !errdefs.IsInvalidArgument(err) {
			t.Errorf("mode %d: error %v", mode, err)
		}
	}
}

func parsedSeccomp(t *testing.T) *bpfilter.Program {
	t.Helper()
	p, err := bpfilter.Parse(recordedSeccomp(t, "default.bpf"))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A profile that runc does not take either.
func TestSeccompProfile(t *testing.T) {
	spec := profiled(t, func(s *specs.LinuxSeccomp) { s.DefaultAction = "SCMP_ACT_MAYBE" })
	if _, err := compared(t, one(criutest.Filter(recordedSeccomp(t, "default.bpf"))), spec, (*verifier).seccomp); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "SCMP_ACT_MAYBE") {
		t.Errorf("error %v", err)
	}
}

// TestSeccompIsBounded has many processes with other filters each, none of which can be followed to its end.
func TestSeccompIsBounded(t *testing.T) {
	var (
		cores   []*criu_core.CoreEntry
		filters []*seccomp.SeccompFilter
	)
	for i := range uint32(50) {
		cores = append(cores, criutest.Core(criutest.Filtered(i)))
		filters = append(filters, criutest.Filter(letThrough(maze(), i)))
	}
	report, err := compared(t, tasks(map[string]string{"seccomp.img": criutest.Seccomp(filters...)}, cores...), profiled(t), (*verifier).seccomp)
	if err != nil || report.ByCheck["seccomp"] != 50 {
		t.Errorf("error %v, findings %v", err, report.ByCheck)
	}
}

// BenchmarkSeccomp checks 50 processes, each with a copy of containerd's default filter, as CRIU writes them.
func BenchmarkSeccomp(b *testing.B) {
	var (
		cores   []*criu_core.CoreEntry
		filters []*seccomp.SeccompFilter
	)
	for i := range uint32(50) {
		cores = append(cores, criutest.Core(criutest.Filtered(i)))
		filters = append(filters, criutest.Filter(recordedSeccomp(b, "default.bpf")))
	}
	dir := b.TempDir()
	for name, content := range tasks(map[string]string{"seccomp.img": criutest.Seccomp(filters...)}, cores...) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	spec := profiled(b)
	b.ReportAllocs()
	for b.Loop() {
		images, err := criu.OpenImages(dir)
		if err != nil {
			b.Fatal(err)
		}
		v, err := newVerifier(b.Context(), Subject{Images: images, Spec: spec}, &Report{})
		if err != nil {
			b.Fatal(err)
		}
		if err := v.seccomp(); err != nil || v.report.Total > 0 {
			b.Fatal(err, v.report.Err())
		}
		images.Close()
	}
}
