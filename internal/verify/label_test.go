package verify

import (
	"strings"
	"testing"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

func TestLabels(t *testing.T) {
	const context = "system_u:system_r:container_t:s0:c1,c2"
	apparmor := func(name string) *specs.Spec {
		return rootSpec(criutest.Capabilities, func(p *specs.Process) { p.ApparmorProfile = name })
	}
	selinux := func(name string) *specs.Spec {
		return rootSpec(criutest.Capabilities, func(p *specs.Process) { p.SelinuxLabel = name })
	}
	plain := rootSpec(criutest.Capabilities)
	const none, aa, se = inventory.Lsmtype_NO_LSM, inventory.Lsmtype_APPARMOR, inventory.Lsmtype_SELINUX
	const profile = "cri-containerd.apparmor.d"
	for name, c := range map[string]struct {
		spec  *specs.Spec
		own   string
		label string
		kind  inventory.Lsmtype
		want  string // the label that CRIU gives the thread, "": CRIU's own
		is    inventory.Lsmtype
		word  string // "": not refused
	}{
		"nothing at all":                     {plain, "", "", none, "", none, ""},
		"nothing, from a node with one":      {plain, "", "", aa, "", aa, ""},
		"none for a profile":                 {apparmor(profile), "", "", aa, profile, aa, ""},
		"none, of a node without, for one":   {apparmor(profile), "", "", none, profile, aa, ""},
		"unconfined for a profile":           {apparmor(profile), "", "unconfined", aa, profile, aa, ""},
		"its profile":                        {apparmor(profile), "", profile, aa, profile, aa, ""},
		"another profile":                    {apparmor(profile), "", "containers-default-0.62.2", aa, profile, aa, ""},
		"its profile of another kind":        {apparmor(profile), "", profile, se, profile, aa, ""},
		"a context for a profile":            {apparmor(profile), "", context, se, profile, aa, ""},
		"a hat of its profile":               {apparmor(profile), "", profile + "//hat", aa, "", aa, "a hat or child profile, " + profile + "//hat"},
		"a stack with its profile":           {apparmor(profile), "", profile + "//&more", aa, "", aa, "several profiles at a time, " + profile + "//&more"},
		"the child profile that the pod has": {apparmor("a//b"), "", "a//b", aa, "a//b", aa, ""},
		"unconfined by the pod":              {apparmor("unconfined"), "", "", aa, "", aa, ""},
		"a profile for unconfined":           {apparmor("unconfined"), "", "strong", aa, "", aa, ""},
		"a hat for unconfined":               {apparmor("unconfined"), "", "strong//hat", aa, "", aa, "a hat"},
		"unconfined where containerd is not": {apparmor("unconfined"), "snap.containerd", "", aa, "unconfined", aa, ""},
		"its context":                        {selinux(context), "", context, se, context, se, ""},
		"another category":                   {selinux(context), "", "system_u:system_r:container_t:s0:c3,c4", se, context, se, ""},
		"a context of another type":          {selinux(context), "", "system_u:system_r:spc_t:s0", se, context, se, ""},
		"none for a context":                 {selinux(context), "", "", none, context, se, ""},
		"the context of the node's service": {plain, "system_u:system_r:unconfined_service_t:s0",
			"system_u:system_r:unconfined_service_t:s0", se, "", se, ""},
		"another where the pod has none":   {plain, "system_u:system_r:unconfined_service_t:s0", "system_u:system_r:init_t:s0", se, "", se, ""},
		"a profile where the pod has none": {plain, "", "weak", aa, "", aa, ""},
		"CRIU's own":                       {plain, "snap.containerd", "", aa, "", aa, ""},
	} {
		t.Run(name, func(t *testing.T) {
			node(t, func(i *inherited) { i.label = c.own })
			files := criutest.Tasks(criutest.Task{PID: 1, Core: criutest.Core(func(e *criu_core.CoreEntry) {
				if c.label != "" {
					e.ThreadCore.Creds.LsmProfile = &c.label
				}
			})})
			inv := &inventory.InventoryEntry{ImgVersion: proto.Uint32(2), RootIds: criutest.IDs(1), Lsmtype: &c.kind}
			files["inventory.img"] = criutest.Image("INVENTORY", inv)
			report, err := compared(t, files, c.spec, (*verifier).credentials)
			if err != nil {
				t.Fatal(err)
			}
			if c.word != "" {
				if report.Total != 1 || !strings.Contains(report.Err().Error(), c.word) {
					t.Errorf("error %v, want %q refused", report.Err(), c.word)
				}
				return
			}
			if report.Total != 0 {
				t.Fatalf("refused: %v", report.Err())
			}
			for name, content := range report.Replaced {
				files[name] = string(content)
			}
			change(files, "core-1.img", "CORE", func(e *criu_core.CoreEntry) {
				if got := confinement(e.GetThreadCore().GetCreds().GetLsmProfile()); got != confinement(c.want) {
					t.Errorf("CRIU gives the thread %q, want %q", got, c.want)
				}
				if c.want == unconfined && e.GetThreadCore().GetCreds().GetLsmProfile() != unconfined {
					t.Error("the thread keeps containerd's own profile")
				}
			})
			change(files, "inventory.img", "INVENTORY", func(e *inventory.InventoryEntry) {
				if e.GetLsmtype() != c.is {
					t.Errorf("CRIU reads labels of %s, want %s", e.GetLsmtype(), c.is)
				}
				if e.Lsmtype = inv.Lsmtype; !proto.Equal(e, inv) {
					t.Errorf("something else of the inventory is changed: %v", e)
				}
			})
		})
	}
	t.Run("two kinds in the spec", func(t *testing.T) {
		node(t)
		spec := selinux(context)
		spec.Process.ApparmorProfile = "x"
		if _, err := compared(t, criutest.Tasks(criutest.Task{PID: 1}), spec, (*verifier).credentials); err == nil || !strings.Contains(err.Error(), "one of them") {
			t.Errorf("error %v", err)
		}
	})
}

func TestOwnLabel(t *testing.T) {
	dir := write(t, map[string]string{"apparmor": "snap.containerd (enforce)\n", "free": "unconfined\n", "selinux": "system_u:system_r:init_t:s0\x00"})
	for want, files := range map[string][]string{
		"snap.containerd":             {dir + "/apparmor", dir + "/selinux"},
		"system_u:system_r:init_t:s0": {dir + "/none", dir + "/selinux"},
		"":                            {dir + "/free", dir + "/selinux"},
	} {
		if got, err := ownLabel(files...); got != want || err != nil {
			t.Errorf("%v: %q, %v, want %q", files, got, err, want)
		}
	}
	if got, err := ownLabel(dir + "/none"); got != "" || err != nil {
		t.Errorf("without files: %q, %v", got, err)
	}
	if _, err := ownLabel(dir); err == nil {
		t.Error("a directory has a label")
	}
}
