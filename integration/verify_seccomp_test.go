package integration

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"path"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"testing"

	images "github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	"github.com/elastic/go-seccomp-bpf/arch"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/seccomp"
)

// TestVerifySeccomp compares filters that this machine's runc and libseccomp have made, and its CRIU
// has recorded, with the profile of the container's own OCI spec.
func TestVerifySeccomp(t *testing.T) {
	t.Parallel()
	n := harness.New(t)
	repo, err := harness.Repo()
	if err != nil {
		t.Fatal(err)
	}
	local := func(name string) *runtime.SecurityProfile {
		return &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_Localhost,
			LocalhostRef: filepath.Join(repo, "internal/seccomp/testdata", name+".json")}
	}
	runtimeDefault := &runtime.SecurityProfile{ProfileType: runtime.SecurityProfile_RuntimeDefault}
	for what, tc := range map[string]struct {
		profile *runtime.SecurityProfile
		add     []string // capabilities, on which the runtime's default depends
		threads bool
		denied  string // a call that the profile does not allow
	}{
		"runtime default":               {runtimeDefault, nil, false, "mount"},
		"threads":                       {runtimeDefault, nil, true, "unshare"},
		"runtime default, more allowed": {runtimeDefault, []string{"SYS_ADMIN", "SYS_TIME"}, false, "init_module"},
		"with every operator":           {local("args"), nil, false, "bpf"},
		"allows by default":             {local("deny"), nil, false, "mount"},
		"logs by default":               {local("log"), nil, false, "mount"},
	} {
		t.Run(what, func(t *testing.T) {
			n := n.In(t)
			pod := n.Pod(t)
			security := harness.Security(func(s *runtime.LinuxContainerSecurityContext) {
				s.Seccomp = tc.profile
				s.Capabilities = &runtime.Capability{AddCapabilities: tc.add}
			})
			var c *harness.Container
			if tc.threads {
				c = pod.Run("threads", workloadImage(t, n), workload("threads"), security)
				waitOK(t, c, 1)
			} else {
				c = pod.Run("counter", n.Image(harness.Busybox), harness.Counting(), security)
				c.WaitCount(1)
			}
			spec := ociSpec(t, n, c)
			for _, chain := range chainsOf(t, checkpointOf(t, c)) {
				honest := chain[0]
				doctored := letThrough(t, honest, tc.denied)
				requireGrants(t, spec, chain)
				requireGrants(t, spec, [][]byte{doctored}, tc.denied)
				// With the honest one next to it nothing gets through.
				requireGrants(t, spec, [][]byte{honest, doctored})
				requireGrants(t, spec, [][]byte{doctored, honest})
			}
			pod.Remove()
		})
	}
}

// ociSpec returns the OCI spec with which the container was created.
func ociSpec(t *testing.T, n *harness.Node, c *harness.Container) *specs.Spec {
	t.Helper()
	container, err := n.Client().LoadContainer(n.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := container.Spec(n.Context())
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// chainsOf returns the filters that a checkpoint's processes come back with, in the order in which CRIU installs them.
func chainsOf(t *testing.T, archive string) [][][]byte {
	t.Helper()
	e := &imageEditor{t: t, dir: t.TempDir()}
	for _, entry := range entriesOf(t, archive) {
		if name, ok := strings.CutPrefix(path.Clean(entry.Name), imagesDir); ok && entry.Typeflag == tar.TypeReg {
			e.Write(name, entry.content)
		}
	}
	all, err := criu.One[*images.SeccompEntry](e.Images(), "seccomp.img", "SECCOMP")
	if err != nil {
		t.Fatal(err)
	}
	var out [][][]byte
	for _, p := range e.Processes() {
		var chain [][]byte
		for i := p.Core.GetThreadCore().SeccompFilter; i != nil; {
			f := all.GetSeccompFilters()[*i]
			chain = append(chain, f.GetFilter())
			i = f.Prev
		}
		if len(chain) == 0 {
			t.Fatalf("process %d has no filter", p.GetPid())
		}
		// One chain for all threads of a process: that CRIU writes it so is what verification relies on.
		for tid, core := range p.Others {
			if core.GetThreadCore().SeccompMode != nil {
				t.Errorf("thread %d of process %d has a mode of its own", tid, p.GetPid())
			}
		}
		out = append(out, chain)
	}
	return out
}

// letThrough puts a rule before a filter that allows a system call of this machine's own ABI.
func letThrough(t *testing.T, filter []byte, name string) []byte {
	t.Helper()
	info, err := arch.GetInfo(goruntime.GOARCH)
	if err != nil {
		t.Fatal(err)
	}
	number, ok := info.SyscallNames[name]
	if !ok {
		t.Fatalf("no system call %s", name)
	}
	var rule []byte
	for _, in := range [][4]uint32{
		{0x20, 0, 0, 4}, {0x15, 0, 3, uint32(info.ID)}, // the architecture, or go on
		{0x20, 0, 0, 0}, {0x15, 0, 1, uint32(number)}, // the number, or go on
		{0x06, 0, 0, 0x7fff0000}, // allow
	} {
		rule = binary.NativeEndian.AppendUint16(rule, uint16(in[0]))
		rule = binary.NativeEndian.AppendUint32(append(rule, byte(in[1]), byte(in[2])), in[3])
	}
	return append(rule, filter...)
}

// requireGrants compares filters with the spec's profile: they let through these calls that it denies, and no others.
func requireGrants(t *testing.T, spec *specs.Spec, chain [][]byte, want ...string) {
	t.Helper()
	profile, err := seccomp.NewProfile(spec.Linux.Seccomp, goruntime.GOARCH)
	if err != nil || profile == nil {
		t.Fatalf("profile %v, error %v", profile, err)
	}
	var (
		comparison = seccomp.NewComparison(t.Context(), profile)
		together   *seccomp.Chain
	)
	for _, filter := range slices.Backward(chain) {
		p, err := seccomp.Parse(filter)
		if err != nil {
			t.Fatal(err)
		}
		together = comparison.Extend(together, p)
	}
	grants, err := comparison.Grants(together)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, g := range grants {
		got = append(got, g.Syscall)
	}
	if !slices.Equal(got, want) {
		t.Errorf("the filters let through %s, want %q", fmt.Sprint(grants), want)
	}
}
