package verify

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// strictPod is the spec of a container without capabilities, in namespaces of its pod.
func strictPod(t testing.TB) *specs.Spec {
	t.Helper()
	// Any file that is not this process's namespace stands for one of a pod.
	other := filepath.Join(t.TempDir(), "ns")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := podSpec()
	s.Process.User.UID, s.Process.NoNewPrivileges, s.Process.Capabilities = 1000, true, &specs.LinuxCapabilities{}
	for i := range s.Linux.Namespaces {
		if s.Linux.Namespaces[i].Path != "" {
			s.Linux.Namespaces[i].Path = other
		}
	}
	return s
}

// layout runs the checks of the images' names, namespaces and memory.
func layout(t testing.TB, files map[string]string, spec *specs.Spec) (*Report, error) {
	t.Helper()
	v, err := verifierOf(t, files, spec)
	if err != nil {
		return &Report{}, err
	}
	for _, check := range []func() error{v.names, v.inventory, v.processNamespaces, v.memory} {
		if err := check(); err != nil {
			return v.report, err
		}
	}
	return v.report, v.replaceEdited()
}

// single is a checkpoint of one process.
func single() map[string]string { return criutest.Checkpoint(criutest.Task{PID: 1}) }

// judgement is a change of a checkpoint and what becomes of it.
type judgement struct {
	change func(files map[string]string, spec *specs.Spec)
	// malformed says that CRIU would not have written it; refused that the pod was not granted it. Both are
	// what the error says, and empty if it is accepted.
	malformed, refused string
}

// judge judges changes of a checkpoint that is accepted without them.
func judge(t *testing.T, honest func() map[string]string, cases map[string]judgement) {
	t.Helper()
	accepted := func(t *testing.T, files map[string]string, spec *specs.Spec) {
		t.Helper()
		report, err := layout(t, files, spec)
		if err == nil {
			err = report.Err()
		}
		if err != nil {
			t.Errorf("refused: %v", err)
		}
	}
	accepted(t, honest(), strictPod(t))
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			files, spec := honest(), strictPod(t)
			c.change(files, spec)
			if c.malformed == "" && c.refused == "" {
				accepted(t, files, spec)
				return
			}
			report, err := layout(t, files, spec)
			if c.malformed != "" {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.malformed) {
					t.Errorf("got %v, %v, want an invalid argument that says %q", err, report.Err(), c.malformed)
				}
				return
			}
			if err != nil || !errdefs.IsPermissionDenied(report.Err()) || !strings.Contains(report.Err().Error(), c.refused) {
				t.Errorf("got %v, %v, want a refusal that says %q", err, report.Err(), c.refused)
			}
		})
	}
}

// change changes the first entry of an image.
func change[M proto.Message](files map[string]string, name, kind string, f func(M)) {
	var zero M
	header := 8
	if kind == "INVENTORY" {
		header = 4
	}
	rest := files[name][header:]
	size := binary.LittleEndian.Uint32([]byte(rest))
	entry := zero.ProtoReflect().New().Interface().(M)
	if err := proto.Unmarshal([]byte(rest[4:4+size]), entry); err != nil {
		panic(err)
	}
	f(entry)
	files[name] = criutest.Image(kind, entry) + rest[4+size:]
}
