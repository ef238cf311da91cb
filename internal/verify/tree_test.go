package verify

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cgroup"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/pstree"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// threaded is a checkpoint of a process with two threads and of a child.
func threaded() map[string]string {
	return criutest.Checkpoint(
		criutest.Task{PID: 1, Threads: map[uint32]*criu_core.CoreEntry{5: criutest.Thread(), 6: criutest.Thread()}}, criutest.Task{PID: 7},
	)
}

func TestTree(t *testing.T) {
	pidMaxFile = filepath.Join(t.TempDir(), "pid_max")
	t.Cleanup(func() { pidMaxFile = "/proc/sys/kernel/pid_max" })
	if err := os.WriteFile(pidMaxFile, []byte("4000\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tree := func(j judgement, f func(e *pstree.PstreeEntry)) judgement {
		j.change = func(files map[string]string, _ *specs.Spec) { change(files, "pstree.img", "PSTREE", f) }
		return j
	}
	judge(t, threaded, map[string]judgement{
		"leaders that are gone":   tree(judgement{}, func(e *pstree.PstreeEntry) { e.Sid, e.Pgid = proto.Uint32(300), proto.Uint32(301) }),
		"largest PID":             tree(judgement{}, func(e *pstree.PstreeEntry) { e.Sid = proto.Uint32(3999) }),
		"session beyond the node": tree(judgement{refused: "process 1: sid: found 4000, allowed less than 4000"}, func(e *pstree.PstreeEntry) { e.Sid = proto.Uint32(4000) }),
		"group beyond the node":   tree(judgement{refused: "process 1: pgid: found 4294967295"}, func(e *pstree.PstreeEntry) { e.Pgid = proto.Uint32(1<<32 - 1) }),
		"process beyond the node": {change: func(files map[string]string, _ *specs.Spec) {
			clear(files)
			for name, content := range criutest.Checkpoint(criutest.Task{PID: 4194304}) {
				files[name] = content
			}
		}, refused: "process 4194304: pid: found 4194304"},
		"thread beyond the node": {change: func(files map[string]string, _ *specs.Spec) {
			clear(files)
			for name, content := range criutest.Checkpoint(criutest.Task{PID: 1, Threads: map[uint32]*criu_core.CoreEntry{4000: criutest.Thread()}}) {
				files[name] = content
			}
		}, refused: "process 1: tid: found 4000"},
		"no session":               tree(judgement{malformed: "no session"}, func(e *pstree.PstreeEntry) { e.Sid = proto.Uint32(0) }),
		"a thread leads a session": tree(judgement{malformed: "is a thread"}, func(e *pstree.PstreeEntry) { e.Sid = proto.Uint32(5) }),
		"a thread leads a group":   tree(judgement{malformed: "is a thread"}, func(e *pstree.PstreeEntry) { e.Pgid = proto.Uint32(6) }),
	})
	if err := os.Remove(pidMaxFile); err != nil {
		t.Fatal(err)
	}
	if _, err := layout(t, threaded(), strictPod(t)); err == nil {
		t.Error("no error without a limit")
	}
}

// TestCgroups has a thread in another cgroup than its process, which CRIU would move wherever the
// image says. It is to read an image without cgroups, and a thread without one.
func TestCgroups(t *testing.T) {
	files := threaded()
	member := &cgroup.CgMemberEntry{Name: proto.String("/sys/fs/cgroup/cpu"), Path: proto.String("/")}
	controller := &cgroup.CgControllerEntry{Cnames: []string{"/sys/fs/cgroup/cpu"}, IsThreaded: proto.Bool(true)}
	files["cgroup.img"] = criutest.Image("CGROUP", &cgroup.CgroupEntry{
		Sets: []*cgroup.CgSetEntry{{Id: proto.Uint32(3), Ctls: []*cgroup.CgMemberEntry{member}}}, Controllers: []*cgroup.CgControllerEntry{controller},
	})
	change(files, "core-6.img", "CORE", func(e *criu_core.CoreEntry) { e.ThreadCore.CgSet = proto.Uint32(3) })
	report, err := layout(t, files, strictPod(t))
	if err != nil || report.Err() != nil {
		t.Fatalf("refused: %v, %v", err, report.Err())
	}
	if got, want := string(report.Replaced["cgroup.img"]), criutest.Image("CGROUP"); got != want {
		t.Errorf("cgroup.img is replaced by %q, want %q", got, want)
	}
	if len(report.Replaced) != 2 {
		t.Errorf("%d images are replaced, want cgroup.img and core-6.img", len(report.Replaced))
	}
	got := &criu_core.CoreEntry{}
	change(map[string]string{"": string(report.Replaced["core-6.img"])}, "", "CORE", func(e *criu_core.CoreEntry) { got = e })
	want := criutest.Thread(func(e *criu_core.CoreEntry) { e.ThreadCore.CgSet = nil })
	if !proto.Equal(got, want) {
		t.Errorf("core-6.img is replaced by %v, want %v", got, want)
	}

	// The honest twin: all in one cgroup.
	report, err = layout(t, threaded(), strictPod(t))
	if err != nil || report.Err() != nil || len(report.Replaced) != 1 || report.Replaced["cgroup.img"] == nil {
		t.Errorf("got %v, %v, replaced %d, want only cgroup.img", err, report.Err(), len(report.Replaced))
	}
	// Without the image there is nothing to replace, and CRIU moves no thread.
	files = threaded()
	delete(files, "cgroup.img")
	if report, err = layout(t, files, strictPod(t)); err != nil || len(report.Replaced) != 0 {
		t.Errorf("got %v, replaced %d, want none", err, len(report.Replaced))
	}
}
