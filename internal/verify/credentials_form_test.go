package verify

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// TestCredentialsOfCRIU takes away what CRIU would then fill with its own, and breaks the form.
func TestCredentialsOfCRIU(t *testing.T) {
	node(t)
	for name, attack := range map[string]func(*criu_core.CoreEntry){
		"no credentials":         func(c *criu_core.CoreEntry) { c.ThreadCore.Creds = nil },
		"nothing of the thread":  func(c *criu_core.CoreEntry) { c.ThreadCore = nil },
		"no inheritable set":     func(c *criu_core.CoreEntry) { c.ThreadCore.Creds.CapInh = nil },
		"half a permitted set":   func(c *criu_core.CoreEntry) { c.ThreadCore.Creds.CapPrm = []uint32{0} },
		"a longer effective set": func(c *criu_core.CoreEntry) { c.ThreadCore.Creds.CapEff = []uint32{0, 0, 0} },
		"no bounding set":        func(c *criu_core.CoreEntry) { c.ThreadCore.Creds.CapBnd = nil },
		"half an ambient set":    func(c *criu_core.CoreEntry) { criutest.Later(c.ThreadCore.Creds, fieldCapAmb, 0) },
		"no_new_privs 2":         func(c *criu_core.CoreEntry) { criutest.Later(c.ThreadCore.Creds, fieldNoNewPrivs, 2) },
	} {
		for _, where := range []string{"first", "thread"} {
			t.Run(name+"/"+where, func(t *testing.T) {
				first, other := criutest.Core(), criutest.Thread()
				honest := criutest.Tasks(criutest.Task{PID: 3, Core: first, Threads: map[uint32]*criu_core.CoreEntry{4: other}})
				if report, err := compared(t, honest, rootSpec(criutest.Capabilities), (*verifier).credentials); err != nil || report.Total != 0 {
					t.Fatalf("the honest twin: %v, %v", err, report.Err())
				}
				broken := first
				if where == "thread" {
					broken = other
				}
				attack(broken)
				files := criutest.Tasks(criutest.Task{PID: 3, Core: first, Threads: map[uint32]*criu_core.CoreEntry{4: other}})
				if _, err := compared(t, files, rootSpec(criutest.Capabilities), (*verifier).credentials); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "core-") {
					t.Errorf("error %v, want invalid argument about the image", err)
				}
			})
		}
	}
	t.Run("state", func(t *testing.T) {
		for state, valid := range map[uint32]bool{1: true, 2: true, 3: true, 0: false, 4: false, 5: false, 7: false} {
			files := criutest.Tasks(criutest.Task{PID: 3, Core: criutest.Core(func(c *criu_core.CoreEntry) { c.Tc.TaskState = proto.Uint32(state) })})
			if _, err := compared(t, files, rootSpec(criutest.Capabilities), (*verifier).credentials); (err == nil) != valid {
				t.Errorf("state %d: error %v", state, err)
			}
		}
	})
}

// TestNoGroups gives a process without supplementary groups, to which CRIU would leave its own, no other than its group.
func TestNoGroups(t *testing.T) {
	files := criutest.Tasks(criutest.Task{PID: 3, Threads: map[uint32]*criu_core.CoreEntry{
		4: criutest.Thread(func(c *criu_core.CoreEntry) {
			c.ThreadCore.Creds.Groups = nil
			c.ThreadCore.Creds.Gid = proto.Uint32(10)
		}),
	}})
	for name, groups := range map[string][]int{"none": nil, "root's": {0}} {
		t.Run(name, func(t *testing.T) {
			node(t, func(i *inherited) { i.groups = groups })
			report, err := compared(t, files, rootSpec(criutest.Capabilities), (*verifier).credentials)
			if err != nil || report.Total != 0 {
				t.Fatal(err, report.Err())
			}
			if len(report.Replaced) != len(groups) {
				t.Fatalf("replaced %d images", len(report.Replaced))
			}
			if len(groups) == 0 {
				return
			}
			if got := decoded(t, report, 4).ThreadCore.Creds; !slices.Equal(got.Groups, []uint32{10}) || len(got.ProtoReflect().GetUnknown()) == 0 {
				t.Errorf("credentials %v", got)
			}
		})
	}
}

// decoded returns the image that CRIU is to read in the place of a thread's.
func decoded(t *testing.T, r *Report, tid uint32) *criu_core.CoreEntry {
	t.Helper()
	data, ok := r.Replaced[criu.CoreName(tid)]
	if !ok {
		t.Fatalf("core image of %d was not replaced", tid)
	}
	images, err := criu.OpenImages(write(t, map[string]string{criu.CoreName(tid): string(data)}))
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	core, err := images.Core(tid)
	if err != nil {
		t.Fatal(err)
	}
	return core
}

// TestManyFindings is a checkpoint whose text ends up in an event.
func TestManyFindings(t *testing.T) {
	node(t)
	var tasks []criutest.Task
	for i := range 50 {
		tasks = append(tasks, criutest.Task{PID: uint32(i + 1), Core: criutest.Core(func(c *criu_core.CoreEntry) {
			c.ThreadCore.Creds.LsmProfile = proto.String(strings.Repeat("\x1b\n", 10000))
			for gid := range 1000 {
				c.ThreadCore.Creds.Groups = append(c.ThreadCore.Creds.Groups, uint32(5000+gid))
			}
		})})
	}
	report, err := compared(t, criutest.Tasks(tasks...), restricted(), (*verifier).credentials)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprint(report.Err())
	if len(text) > 8<<10 || strings.ContainsAny(text, "\x1b\n") || report.Total < 50*10 {
		t.Errorf("%d findings, %d bytes: %s", report.Total, len(text), text)
	}
}
