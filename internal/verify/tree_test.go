package verify

import (
	"os"
	"path/filepath"
	"testing"

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
