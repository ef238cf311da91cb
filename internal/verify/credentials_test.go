package verify

import (
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/creds"
	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

const (
	chown, netRaw, netBind, sysAdmin = 1 << 0, 1 << 13, 1 << 10, 1 << 21
	allCapabilities                  = 1<<41 - 1
)

// rootSpec is what containerd makes of a container without a security context, with these capabilities.
func rootSpec(mask capabilities, change ...func(*specs.Process)) *specs.Spec {
	s := podSpec()
	var names []string
	if mask != 0 {
		names = strings.Split(mask.String(), ", ")
	}
	score := 1000
	s.Process.User = specs.User{AdditionalGids: []uint32{0, 10}}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: names, Effective: names, Permitted: names}
	s.Process.OOMScoreAdj = &score
	for _, f := range change {
		f(s.Process)
	}
	return s
}

// restricted is a pod of the Pod Security Standard of that name.
func restricted(change ...func(*specs.Process)) *specs.Spec {
	return rootSpec(0, append([]func(*specs.Process){func(p *specs.Process) {
		p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000, 2000}}
		p.NoNewPrivileges = true
	}}, change...)...)
}

// asRestricted makes the credentials of a process of such a pod.
func asRestricted(c *creds.CredsEntry) {
	criutest.User(c, 1000, 1000)
	c.Groups = []uint32{1000, 2000}
	c.CapBnd = criutest.Words(0)
	criutest.Later(c, fieldNoNewPrivs, 1)
}

// node replaces what this process would hand on to a container.
func node(t testing.TB, change ...func(*inherited)) {
	t.Helper()
	own := inherited{bounding: allCapabilities, permitted: allCapabilities}
	for i := range own.hard {
		own.hard[i] = 1000
	}
	own.hard[13], own.hard[14] = 0, 0 // nice, real-time priority
	for _, f := range change {
		f(&own)
	}
	before := inherit
	inherit = func() (inherited, error) { return own, nil }
	t.Cleanup(func() { inherit = before })
}

// compared runs some of the checks over images of a directory, with what follows them in Images.
func compared(t *testing.T, files map[string]string, spec *specs.Spec, checks ...func(*verifier) error) (*Report, error) {
	t.Helper()
	v, err := verifierOf(t, files, spec)
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range checks {
		if err := check(v); err != nil {
			return v.report, err
		}
	}
	if err := v.replaceEdited(); err != nil {
		t.Fatal(err)
	}
	return v.report, nil
}

// holders are the threads whose credentials a checkpoint has: every one is restored by itself.
var holders = map[string]func(*creds.CredsEntry, func(*creds.CredsEntry)) (string, map[string]string){
	"first process": func(honest *creds.CredsEntry, attack func(*creds.CredsEntry)) (string, map[string]string) {
		return "process 1", criutest.Tasks(criutest.Task{PID: 1, Core: core(honest, attack)})
	},
	"child": func(honest *creds.CredsEntry, attack func(*creds.CredsEntry)) (string, map[string]string) {
		return "process 7", criutest.Tasks(criutest.Task{PID: 1, Core: core(honest)}, criutest.Task{PID: 7, Core: core(honest, attack)})
	},
	"thread": func(honest *creds.CredsEntry, attack func(*creds.CredsEntry)) (string, map[string]string) {
		return "process 7, thread 9", criutest.Tasks(criutest.Task{PID: 1, Core: core(honest)}, criutest.Task{PID: 7, Core: core(honest),
			Threads: map[uint32]*criu_core.CoreEntry{8: thin(core(honest)), 9: thin(core(honest, attack))}})
	},
}

func core(honest *creds.CredsEntry, change ...func(*creds.CredsEntry)) *criu_core.CoreEntry {
	c := proto.Clone(honest).(*creds.CredsEntry)
	for _, f := range change {
		f(c)
	}
	return criutest.Core(func(e *criu_core.CoreEntry) { e.ThreadCore.Creds = c })
}

// thin makes a thread of a process.
func thin(c *criu_core.CoreEntry) *criu_core.CoreEntry {
	c.Tc = nil
	return c
}

func TestCredentials(t *testing.T) {
	node(t)
	type edit = func(*creds.CredsEntry)
	asRoot := func(*creds.CredsEntry) {}
	caps := func(set string, mask uint64) edit {
		return func(c *creds.CredsEntry) {
			w := criutest.Words(mask)
			switch set {
			case "CapInh":
				c.CapInh = w
			case "CapPrm":
				c.CapPrm = w
			case "CapEff":
				c.CapEff = w
			case "CapBnd":
				c.CapBnd = w
			case "CapAmb":
				criutest.Later(c, fieldCapAmb, uint64(w[0]), uint64(w[1]))
			}
		}
	}
	without := func(mask capabilities) func(*specs.Process) {
		return func(p *specs.Process) {
			p.Capabilities = rootSpec(criutest.Capabilities &^ mask).Process.Capabilities
		}
	}
	nnp := func(p *specs.Process) { p.NoNewPrivileges = true }
	user := func(p *specs.Process) {
		p.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000, 2000}}
	}
	asUser := func(c *creds.CredsEntry) { criutest.User(c, 1000, 1000) }
	ambient := func(c capabilities) func(*specs.Process) {
		return func(p *specs.Process) {
			p.Capabilities.Ambient = append(p.Capabilities.Ambient, strings.Split(c.String(), ", ")...)
			p.Capabilities.Inheritable = p.Capabilities.Ambient
		}
	}
	root := func(change ...func(*specs.Process)) *specs.Spec {
		return rootSpec(criutest.Capabilities, change...)
	}
	for _, c := range []struct {
		name   string
		spec   *specs.Spec
		honest edit
		attack edit
		field  string // "": not refused
	}{
		{"root as root", root(), asRoot, asRoot, ""},
		{"restricted as restricted", restricted(), asRestricted, asRestricted, ""},
		{"user without no_new_privs", root(user), asUser, asUser, ""},

		// A root that was given the capability may be whoever it wants; it cannot be CRIU.
		{"root that became a user", root(), asRoot, asUser, ""},
		{"user -1", root(), asRoot, func(c *creds.CredsEntry) { c.Uid = proto.Uint32(nobody) }, "uid"},
		{"effective user -1", root(), asRoot, func(c *creds.CredsEntry) { c.Euid = proto.Uint32(nobody) }, "euid"},
		{"saved user -1", root(), asRoot, func(c *creds.CredsEntry) { c.Suid = proto.Uint32(nobody) }, "suid"},
		{"file system user -1", root(), asRoot, func(c *creds.CredsEntry) { c.Fsuid = proto.Uint32(nobody) }, "fsuid"},
		{"group -1", root(), asRoot, func(c *creds.CredsEntry) { c.Gid = proto.Uint32(nobody) }, "gid"},
		{"effective group -1", root(), asRoot, func(c *creds.CredsEntry) { c.Egid = proto.Uint32(nobody) }, "egid"},
		{"root without SETUID", root(without(capSetUID)), func(c *creds.CredsEntry) { caps("CapBnd", 0)(c); caps("CapPrm", 0)(c); caps("CapEff", 0)(c) },
			func(c *creds.CredsEntry) { c.Suid = proto.Uint32(1000) }, "suid"},
		{"root without SETGID", root(without(capSetGID)), func(c *creds.CredsEntry) { caps("CapBnd", 0)(c); caps("CapPrm", 0)(c); caps("CapEff", 0)(c) },
			func(c *creds.CredsEntry) { c.Groups = []uint32{0, 10, 42} }, "groups"},

		{"root in a user's pod", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Uid = proto.Uint32(0) }, "uid"},
		{"effective root", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Euid = proto.Uint32(0) }, "euid"},
		{"saved root", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Suid = proto.Uint32(0) }, "suid"},
		{"root for files", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Fsuid = proto.Uint32(0) }, "fsuid"},
		{"another user", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Uid = proto.Uint32(1001) }, "uid"},
		{"by a set-user-ID program", root(user), asUser, func(c *creds.CredsEntry) { c.Euid = proto.Uint32(0) }, "euid"},
		{"user with SETUID", root(user, ambient(capSetUID)), asUser, func(c *creds.CredsEntry) { c.Suid = proto.Uint32(33) }, ""},
		{"root group", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Gid = proto.Uint32(0) }, "gid"},
		{"effective root group", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Egid = proto.Uint32(0) }, "egid"},
		{"saved root group", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Sgid = proto.Uint32(0) }, "sgid"},
		{"root group for files", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Fsgid = proto.Uint32(0) }, "fsgid"},
		{"supplementary group as group", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Egid = proto.Uint32(2000) }, ""},
		{"more groups", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Groups = []uint32{6, 1000, 2000} }, "groups"},
		{"fewer groups", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Groups = []uint32{2000} }, ""},
		{"user with SETGID", root(user, ambient(capSetGID)), asUser, func(c *creds.CredsEntry) { c.Groups = []uint32{6}; c.Egid = proto.Uint32(33) }, ""},

		{"more inheritable", root(), asRoot, caps("CapInh", sysAdmin), "CapInh"},
		{"more permitted", root(), asRoot, caps("CapPrm", criutest.Capabilities|sysAdmin), "CapPrm"},
		{"more effective", root(), asRoot, caps("CapEff", criutest.Capabilities|sysAdmin), "CapEff"},
		{"more bounding", root(), asRoot, caps("CapBnd", criutest.Capabilities|sysAdmin), "CapBnd"},
		{"more ambient", root(), asRoot, caps("CapAmb", sysAdmin), "CapAmb"},
		{"in the upper half", root(), asRoot, caps("CapPrm", 1<<40), "CapPrm"},
		{"unknown", root(), asRoot, caps("CapBnd", criutest.Capabilities|1<<63), "CapBnd"},
		{"unknown, privileged", rootSpec(allCapabilities), asRoot, caps("CapBnd", 1<<63), "CapBnd"},
		{"privileged", rootSpec(allCapabilities), asRoot, func(c *creds.CredsEntry) {
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
				caps(set, allCapabilities)(c)
			}
		}, ""},
		{"fewer of all", root(), asRoot, func(c *creds.CredsEntry) {
			for _, set := range []string{"CapPrm", "CapEff", "CapBnd"} {
				caps(set, chown)(c)
			}
		}, ""},
		{"its own made inheritable and ambient", root(nnp), func(c *creds.CredsEntry) { criutest.Later(c, fieldNoNewPrivs, 1) },
			func(c *creds.CredsEntry) { caps("CapInh", netBind)(c); caps("CapAmb", netBind)(c) }, ""},
		{"without ambient in the image", root(), asRoot, func(c *creds.CredsEntry) { criutest.Later(c, fieldCapAmb) }, ""},

		// A user's program has what is ambient, and by file capabilities what is in the bounding set.
		{"file capability", root(user), asUser, caps("CapPrm", netRaw), ""},
		{"file capability that is not bounded", root(user), asUser, caps("CapPrm", sysAdmin), "CapPrm"},
		{"file capability with no_new_privs", root(user, nnp), func(c *creds.CredsEntry) { asUser(c); criutest.Later(c, fieldNoNewPrivs, 1) }, caps("CapPrm", netRaw), "CapPrm"},
		{"effective with no_new_privs", root(user, nnp), func(c *creds.CredsEntry) { asUser(c); criutest.Later(c, fieldNoNewPrivs, 1) }, caps("CapEff", netRaw), "CapEff"},
		{"inheritable with no_new_privs", root(user, nnp), func(c *creds.CredsEntry) { asUser(c); criutest.Later(c, fieldNoNewPrivs, 1) }, caps("CapInh", netRaw), "CapInh"},
		{"ambient with no_new_privs", root(user, nnp), func(c *creds.CredsEntry) { asUser(c); criutest.Later(c, fieldNoNewPrivs, 1) }, caps("CapAmb", netRaw), "CapAmb"},
		{"granted ambient with no_new_privs", root(user, nnp, ambient(netRaw)), func(c *creds.CredsEntry) { asUser(c); criutest.Later(c, fieldNoNewPrivs, 1) },
			func(c *creds.CredsEntry) {
				for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
					caps(set, netRaw)(c)
				}
			}, ""},

		{"securebits", root(without(capSetPCap)), func(c *creds.CredsEntry) { caps("CapBnd", 0)(c); caps("CapPrm", 0)(c); caps("CapEff", 0)(c) },
			func(c *creds.CredsEntry) { c.Secbits = proto.Uint32(1) }, "securebits"},
		{"securebits of a user", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Secbits = proto.Uint32(0x4) }, "securebits"},
		{"securebits with SETPCAP", root(), asRoot, func(c *creds.CredsEntry) { c.Secbits = proto.Uint32(0x2f) }, ""},
		{"keep capabilities", restricted(), asRestricted, func(c *creds.CredsEntry) { c.Secbits = proto.Uint32(0x10) }, ""},

		{"no_new_privs lost", restricted(), asRestricted, func(c *creds.CredsEntry) { criutest.Later(c, fieldNoNewPrivs, 0) }, "no_new_privs"},
		{"no_new_privs missing", restricted(), asRestricted, func(c *creds.CredsEntry) { criutest.Later(c, fieldNoNewPrivs) }, "no_new_privs"},
		{"no_new_privs of its own", root(), asRoot, func(c *creds.CredsEntry) { criutest.Later(c, fieldNoNewPrivs, 1) }, ""},

		{"label", root(), asRoot, func(c *creds.CredsEntry) { c.LsmProfile = proto.String("mine//hat") }, "LSM label"},
		{"label of sockets", root(), asRoot, func(c *creds.CredsEntry) { c.LsmSockcreate = proto.String("x") }, "LSM label of new sockets"},
		{"AppArmor data", root(), asRoot, func(c *creds.CredsEntry) { c.ApparmorData = []byte("x") }, "AppArmor data"},
	} {
		for place, images := range holders {
			t.Run(c.name+"/"+place, func(t *testing.T) {
				honest := criutest.Creds()
				c.honest(honest)
				_, files := images(honest, func(*creds.CredsEntry) {})
				if report, err := compared(t, files, c.spec, (*verifier).credentials); err != nil || report.Err() != nil {
					t.Errorf("the honest twin: %v, %v", err, report.Err())
				}
				object, files := images(honest, c.attack)
				report, err := compared(t, files, c.spec, (*verifier).credentials)
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
					return
				}
				if !errdefs.IsPermissionDenied(report.Err()) || report.Total != 1 || report.ByCheck["credentials"] != 1 {
					t.Fatalf("error %v, %d findings, want one", report.Err(), report.Total)
				}
				if f := report.Findings[0]; f.Object != object || f.Field != c.field {
					t.Errorf("found %s, want %s of %s", f, c.field, object)
				}
			})
		}
	}
}
