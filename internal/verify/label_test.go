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
	for name, c := range map[string]struct {
		spec  *specs.Spec
		own   string
		label string
		kind  inventory.Lsmtype
		field string // "": not refused
	}{
		"nothing at all":                    {plain, "", "", none, ""},
		"nothing, from a node with one":     {plain, "", "", aa, ""},
		"none for a profile":                {apparmor("cri-containerd.apparmor.d"), "", "", aa, "LSM label"},
		"unconfined for a profile":          {apparmor("cri-containerd.apparmor.d"), "", "unconfined", aa, "LSM label"},
		"its profile":                       {apparmor("cri-containerd.apparmor.d"), "", "cri-containerd.apparmor.d", aa, ""},
		"another profile":                   {apparmor("cri-containerd.apparmor.d"), "", "weak", aa, "LSM label"},
		"its profile of another kind":       {apparmor("cri-containerd.apparmor.d"), "", "cri-containerd.apparmor.d", se, "LSM"},
		"its profile of no kind":            {apparmor("cri-containerd.apparmor.d"), "", "cri-containerd.apparmor.d", none, "LSM"},
		"unconfined by the pod":             {apparmor("unconfined"), "", "", aa, ""},
		"a profile for unconfined":          {apparmor("unconfined"), "", "weak", aa, "LSM label"},
		"its context":                       {selinux(context), "", context, se, ""},
		"another category":                  {selinux(context), "", "system_u:system_r:container_t:s0:c3,c4", se, "LSM label"},
		"a context of another type":         {selinux(context), "", "system_u:system_r:spc_t:s0", se, "LSM label"},
		"none for a context":                {selinux(context), "", "", none, "LSM label"},
		"the context of the node's service": {plain, "system_u:system_r:unconfined_service_t:s0", "system_u:system_r:unconfined_service_t:s0", se, ""},
		"another where the pod has none":    {plain, "system_u:system_r:unconfined_service_t:s0", "system_u:system_r:init_t:s0", se, "LSM label"},
		"a profile where the pod has none":  {plain, "", "weak", aa, "LSM label"},
		"CRIU's own":                        {plain, "snap.containerd", "", aa, ""},
	} {
		t.Run(name, func(t *testing.T) {
			node(t, func(i *inherited) { i.label = c.own })
			files := criutest.Tasks(criutest.Task{PID: 1, Core: criutest.Core(func(e *criu_core.CoreEntry) {
				if c.label != "" {
					e.ThreadCore.Creds.LsmProfile = &c.label
				}
			})})
			files["inventory.img"] = criutest.Image("INVENTORY", &inventory.InventoryEntry{ImgVersion: proto.Uint32(2), RootIds: criutest.IDs(1), Lsmtype: &c.kind})
			report, err := compared(t, files, c.spec, (*verifier).credentials)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case c.field == "" && report.Total != 0:
				t.Errorf("refused: %v", report.Err())
			case c.field != "" && (report.Total != 1 || report.Findings[0].Field != c.field):
				t.Errorf("error %v, want %s refused", report.Err(), c.field)
			}
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
