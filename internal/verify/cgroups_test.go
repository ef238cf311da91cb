package verify

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/cgroup"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

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
	if len(report.Replaced) != 3 {
		t.Errorf("%d images are replaced, want cgroup.img, inventory.img and core-6.img", len(report.Replaced))
	}
	// To CRIU 4.3 all processes have to be where CRIU is, or it looks for their cgroup in the empty image.
	change(map[string]string{"": string(report.Replaced["inventory.img"])}, "", "INVENTORY", func(e *inventory.InventoryEntry) {
		if set := criutest.Core().GetThreadCore().GetCgSet(); set == 0 || e.GetRootCgSet() != set {
			t.Errorf("CRIU is in cgroup %d, the processes in %d", e.GetRootCgSet(), set)
		}
	})
	got := &criu_core.CoreEntry{}
	change(map[string]string{"": string(report.Replaced["core-6.img"])}, "", "CORE", func(e *criu_core.CoreEntry) { got = e })
	want := criutest.Thread(func(e *criu_core.CoreEntry) { e.ThreadCore.CgSet = nil })
	if !proto.Equal(got, want) {
		t.Errorf("core-6.img is replaced by %v, want %v", got, want)
	}

	// The honest twin: all in one cgroup.
	report, err = layout(t, threaded(), strictPod(t))
	if err != nil || report.Err() != nil || len(report.Replaced) != 2 || report.Replaced["cgroup.img"] == nil || report.Replaced["inventory.img"] == nil {
		t.Errorf("got %v, %v, replaced %d, want only cgroup.img and inventory.img", err, report.Err(), len(report.Replaced))
	}
	// Without the image there is nothing to replace, and CRIU moves no thread.
	files = threaded()
	delete(files, "cgroup.img")
	if report, err = layout(t, files, strictPod(t)); err != nil || len(report.Replaced) != 0 {
		t.Errorf("got %v, replaced %d, want none", err, len(report.Replaced))
	}
}

// TestCgroupNamespace has a pod with a cgroup namespace of its own: the image that CRIU reads has one cgroup for all
// processes, which CRIU finds by what runc tells it, and no number of a process is that of CRIU's own cgroup, in whose
// namespace it would stay.
func TestCgroupNamespace(t *testing.T) {
	set := func(n uint32) func(e *criu_core.CoreEntry) {
		return func(e *criu_core.CoreEntry) { e.ThreadCore.CgSet = proto.Uint32(n) }
	}
	for name, c := range map[string]struct {
		change func(files map[string]string)
		set    uint32
		edited []string
	}{
		"ordinary":           {func(map[string]string) {}, 2, nil},
		"a child elsewhere":  {func(files map[string]string) { change(files, "core-7.img", "CORE", set(9)) }, 2, []string{"core-7.img"}},
		"a thread elsewhere": {func(files map[string]string) { change(files, "core-6.img", "CORE", set(9)) }, 2, []string{"core-6.img"}},
		"the first where CRIU is": {func(files map[string]string) {
			change(files, "core-1.img", "CORE", set(1))
			change(files, "core-5.img", "CORE", set(1))
			change(files, "core-6.img", "CORE", func(e *criu_core.CoreEntry) { e.ThreadCore.CgSet = nil })
		}, 2, []string{"core-1.img", "core-5.img"}},
		"all where CRIU is": {func(files map[string]string) {
			change(files, "inventory.img", "INVENTORY", func(e *inventory.InventoryEntry) { e.RootCgSet = proto.Uint32(2) })
		}, 3, []string{"core-1.img", "core-5.img", "core-6.img", "core-7.img"}},
		"the last number": {func(files map[string]string) {
			change(files, "inventory.img", "INVENTORY", func(e *inventory.InventoryEntry) { e.RootCgSet = proto.Uint32(1<<32 - 1) })
			for _, name := range []string{"core-1.img", "core-5.img", "core-6.img", "core-7.img"} {
				change(files, name, "CORE", set(1<<32-1))
			}
		}, 1, []string{"core-1.img", "core-5.img", "core-6.img", "core-7.img"}},
		"no number": {func(files map[string]string) {
			change(files, "inventory.img", "INVENTORY", func(e *inventory.InventoryEntry) { e.RootCgSet = nil })
			change(files, "core-1.img", "CORE", func(e *criu_core.CoreEntry) { e.ThreadCore.CgSet = nil; e.Tc.CgSet = nil })
		}, 1, []string{"core-1.img", "core-5.img", "core-6.img", "core-7.img"}},
		"number of an old CRIU": {func(files map[string]string) {
			change(files, "core-1.img", "CORE", func(e *criu_core.CoreEntry) { e.ThreadCore.CgSet = nil; e.Tc.CgSet = proto.Uint32(2) })
		}, 2, nil},
		"a zombie": {func(files map[string]string) {
			clear(files)
			maps.Copy(files, criutest.Checkpoint(criutest.Task{PID: 1}, criutest.Task{PID: 7, Core: criutest.Zombie()}))
		}, 2, nil},
	} {
		t.Run(name, func(t *testing.T) {
			files := threaded()
			c.change(files)
			report, err := layout(t, files, in(strictPod(t), specs.CgroupNamespace, private))
			if err != nil || report.Err() != nil {
				t.Fatalf("refused: %v, %v", err, report.Err())
			}
			var got *cgroup.CgroupEntry
			change(map[string]string{"": string(report.Replaced["cgroup.img"])}, "", "CGROUP", func(e *cgroup.CgroupEntry) { got = e })
			if len(got.GetControllers()) != 1 || !slices.Equal(got.Controllers[0].GetCnames(), []string{""}) || len(got.Controllers[0].GetDirs()) != 1 {
				t.Fatalf("controllers %v, want the unified one with one directory", got.GetControllers())
			}
			dir := got.Controllers[0].Dirs[0]
			if dir.GetDirName() == "" || len(dir.Properties) > 0 || len(dir.Children) > 0 || got.Controllers[0].GetIsThreaded() {
				t.Errorf("directory %v, want a name and nothing to set or to make", dir)
			}
			if len(got.GetSets()) != 1 || got.Sets[0].GetId() != c.set || len(got.Sets[0].GetCtls()) != 1 {
				t.Fatalf("sets %v, want one, %d", got.GetSets(), c.set)
			}
			if ctl := got.Sets[0].Ctls[0]; ctl.GetName() != "" || ctl.GetPath() != "/"+dir.GetDirName() || int(ctl.GetCgnsPrefix()) != len(ctl.GetPath()) {
				t.Errorf("cgroup %v, want the directory, and that the namespace begins there", ctl)
			}
			for name, content := range report.Replaced {
				if !strings.HasPrefix(name, "core-") {
					continue
				}
				change(map[string]string{"": string(content)}, "", "CORE", func(e *criu_core.CoreEntry) {
					if t2 := e.GetThreadCore(); t2.CgSet != nil && t2.GetCgSet() != c.set || e.GetTc() != nil && t2.GetCgSet() != c.set {
						t.Errorf("%s has %v, want %d", name, t2.CgSet, c.set)
					}
				})
			}
			edited := slices.DeleteFunc(slices.Sorted(maps.Keys(report.Replaced)), func(name string) bool { return name == "cgroup.img" })
			if !slices.Equal(edited, c.edited) {
				t.Errorf("replaced besides %v, want %v", edited, c.edited)
			}
		})
	}

	files := threaded()
	delete(files, "cgroup.img")
	if _, err := layout(t, files, in(strictPod(t), specs.CgroupNamespace, private)); !errdefs.IsInvalidArgument(err) {
		t.Errorf("an image with no namespace would be read: %v", err)
	}
}
