package verify

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// honestImages are those of a container that containerd 2.4.2 has checkpointed with CRIU 4.2.1: a shell that counts. Its
// memory is left out, which nobody here reads: only the sizes count.
func honestImages(t testing.TB) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	entries, err := os.ReadDir("testdata/honest")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join("testdata/honest", e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	files["pages-1.img"], files["pages-2.img"] = make([]byte, 77824), make([]byte, 65536)
	return files
}

// honestSpec is the final OCI spec of the container that was to be restored from them. Its pod is gone,
// so that its namespaces are some files, which are none of the node's.
func honestSpec(t testing.TB) *specs.Spec {
	t.Helper()
	data, err := os.ReadFile("testdata/spec.json")
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for i, ns := range spec.Linux.Namespaces {
		if ns.Path != "" {
			spec.Linux.Namespaces[i].Path = filepath.Join(dir, string(ns.Type))
			if err := os.WriteFile(spec.Linux.Namespaces[i].Path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return &spec
}

// verified is Images and Mounts over these files.
func verified(t *testing.T, files map[string][]byte, spec *specs.Spec) (*Report, error) {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if strings.HasPrefix(name, "pages-") && len(bytes.Trim(content, "\x00")) == 0 {
			// All of it a hole.
			f, err := os.Create(filepath.Join(dir, name))
			if err := errors.Join(err, f.Truncate(int64(len(content))), f.Close()); err != nil {
				t.Fatal(err)
			}
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	images, err := criu.OpenImages(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	subject := Subject{Images: images, Spec: spec}
	before, err := Before(t.Context(), subject)
	if err == nil {
		err = before.Unreadable
	}
	if err != nil {
		return before, err
	}
	report, err := After(t.Context(), subject, rootOf(t, images))
	if err == nil {
		err = report.Unreadable
	}
	report.Findings, report.Total = append(before.Findings, report.Findings...), before.Total+report.Total
	for name, data := range before.Replaced {
		report.replace(name, data)
	}
	return report, err
}

// rootOf is a root file system with the files that a checkpoint has open in it.
func rootOf(t testing.TB, images *criu.Images) string {
	t.Helper()
	root := t.TempDir()
	if err := os.Chmod(root, 0o755); err != nil {
		t.Fatal(err)
	}
	files, err := criu.Entries[*fdinfo.FileEntry](images, "files.img", "FILES")
	if err != nil {
		return root
	}
	for _, f := range files {
		r := f.GetReg()
		name := filepath.Join(root, filepath.Clean("/"+r.GetName()))
		if r == nil || r.GetName() == "/" || len(name) > 1000 {
			continue
		}
		if os.MkdirAll(filepath.Dir(name), 0o755) != nil {
			continue
		}
		switch r.GetMode() & unix.S_IFMT {
		case unix.S_IFREG:
			if os.WriteFile(name, nil, 0o600) == nil {
				_ = os.Truncate(name, min(int64(r.GetSize()), 1<<30))
			}
		case unix.S_IFDIR:
			_ = os.Mkdir(name, 0o700)
		}
		_ = unix.Chmod(name, r.GetMode()&0o7777)
	}
	return root
}

// TestHonestImages verifies what containerd and CRIU have made of an ordinary container: nothing is
// found in it. (The targets of fuzzing would find nothing in a set that is refused anyway.)
func TestHonestImages(t *testing.T) {
	node(t)
	report, err := verified(t, honestImages(t), honestSpec(t))
	if err == nil {
		err = report.Err()
	}
	if err != nil {
		t.Fatalf("an honest checkpoint is refused: %v", err)
	}
}

// FuzzImages changes one image of an honest checkpoint, or adds one. Whatever it is, there is an
// answer in good time; and if that is yes, then the processes get no capability, user, mount or image that another,
// simpler reading of the images finds to be more than the spec has.
func FuzzImages(f *testing.F) {
	honest := honestImages(f)
	for name, content := range honest {
		if strings.HasPrefix(name, "pages-") {
			f.Add(name, []byte("short"))
			continue
		}
		f.Add(name, content)
		f.Add(name, content[:len(content)/2])
		f.Add(name, append(slices.Clone(content), content[min(len(content), 8):]...)) // every entry twice
		f.Add(name, []byte{})
	}
	for _, name := range []string{
		"userns-13.img", "netdev-10.img", "route-10.img", "apparmor.img", "remap-fpath.img", "ghost-file-1.img", "memfd.img", "filelocks.img",
		"core-2.img", "mountpoints-14.img", "ids-01.img", "tmpfs-dev-1.tar.gz.img", "reg-files.img", "sk-queues.img", "creds-1.img", "x",
	} {
		f.Add(name, honest["core-1.img"])
		f.Add(name, honest["files.img"])
	}
	f.Fuzz(func(t *testing.T, name string, content []byte) {
		if name != filepath.Base(name) || !filepath.IsLocal(name) || name == "." || len(name) > 200 || strings.ContainsRune(name, 0) || !fileName.MatchString(name) {
			return // no name of a file, or one that only a fuzzer would spell
		}
		node(t)
		spec := honestSpec(t)
		files := honestImages(t)
		files[name] = content
		began := time.Now()
		report, err := verified(t, files, spec)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it took %s", took)
		}
		if report == nil {
			t.Fatal("no report")
		}
		requireSays(t, err, func(err error) bool { return errdefs.IsInvalidArgument(err) || errdefs.IsFailedPrecondition(err) })
		requireSays(t, report.Err(), func(err error) bool { return errdefs.IsInvalidArgument(err) || errdefs.IsPermissionDenied(err) })
		if err != nil || report.Err() != nil {
			return
		}
		for replaced, content := range report.Replaced {
			if _, ok := files[replaced]; !ok {
				t.Errorf("there is no image %q to replace", replaced)
			}
			files[replaced] = content
		}
		again, err := verified(t, files, spec)
		if err == nil {
			err = again.Err()
		}
		if err != nil {
			t.Errorf("accepted, and then refused in the form that CRIU reads: %v", err)
			return
		}
		for replaced, content := range again.Replaced {
			if !bytes.Equal(files[replaced], content) {
				t.Errorf("what CRIU reads as %s would be replaced again", replaced)
			}
		}
		requireGranted(t, files, spec)
	})
}

var fileName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]*$`)

func requireSays(t *testing.T, err error, is func(error) bool) {
	t.Helper()
	if err == nil {
		return
	}
	if !is(err) {
		t.Errorf("class: %v", err)
	}
	if text := err.Error(); len(text) > 16<<10 || strings.ContainsFunc(text, unicode.IsControl) {
		t.Errorf("error of %d bytes: %.1000q", len(text), text)
	}
}

// requireGranted reads what matters most of images that were accepted, and nothing else.
func requireGranted(t *testing.T, files map[string][]byte, spec *specs.Spec) {
	t.Helper()
	var granted uint64
	caps := spec.Process.Capabilities
	if caps == nil { // then runc changes nothing
		caps = &specs.LinuxCapabilities{Bounding: capabilityNames}
	}
	for _, name := range caps.Bounding {
		granted |= 1 << slices.Index(capabilityNames, name)
	}
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	images, err := criu.OpenImages(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer images.Close()
	processes, err := images.Processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		for _, core := range append([]*criu_core.CoreEntry{p.Core}, values(p.Others)...) {
			if core.GetTc().GetTaskState() == criu.TaskDead {
				continue
			}
			c := core.GetThreadCore().GetCreds()
			for what, set := range map[string][]uint32{"inheritable": c.GetCapInh(), "permitted": c.GetCapPrm(), "effective": c.GetCapEff(), "bounding": c.GetCapBnd()} {
				if len(set) == 0 || len(set) > 2 || mask(set)&^granted != 0 {
					t.Errorf("process %d has the %s capabilities %x, of %x", p.GetPid(), what, set, granted)
				}
			}
			if c.GetSecbits() != 0 {
				t.Errorf("process %d has secure bits %x", p.GetPid(), c.GetSecbits())
			}
		}
	}
	for name := range files {
		if !strings.HasPrefix(name, "mountpoints-") {
			continue
		}
		mounts, err := criu.Entries[*mnt.MntEntry](images, name, "MNTS")
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range mounts {
			at := filepath.Clean("/" + strings.TrimPrefix(m.GetMountpoint(), "/"))
			if strings.Contains(m.GetMountpoint(), "..") {
				t.Errorf("mount at %q", m.GetMountpoint())
			}
			if i := slices.IndexFunc(spec.Mounts, func(s specs.Mount) bool { return filepath.Clean(s.Destination) == at }); i >= 0 {
				// Of cgroup v1 the hierarchies are read-only, and runc leaves the tmpfs above them writable: see the honest images.
				if slices.Contains(spec.Mounts[i].Options, "ro") && m.GetFlags()&1 == 0 && at != "/sys/fs/cgroup" {
					t.Errorf("mount %s is writable", at)
				}
			}
		}
	}
}

func mask(set []uint32) uint64 {
	var out uint64
	for i, w := range set {
		out |= uint64(w) << (32 * i)
	}
	return out
}

func values(m map[uint32]*criu_core.CoreEntry) []*criu_core.CoreEntry {
	var out []*criu_core.CoreEntry
	for _, v := range m {
		out = append(out, v)
	}
	return out
}

// capabilityNames are the kernel's, by their number (include/uapi/linux/capability.h).
var capabilityNames = strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID
	CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE
	CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME
	CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP`)
