package verify

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	remap_fpath "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// panicked are the two checkpoints that once ended containerd, and the honest one.
var panicked = []func(files map[string][]byte, spec *specs.Spec){
	func(map[string][]byte, *specs.Spec) {},
	// An honest one: sleep 1 & exec 3</proc/$!/stat
	func(files map[string][]byte, _ *specs.Spec) {
		const id = 77
		proc := criutest.MountAt(files, "/proc")
		f := criutest.Regular(id, "/proc/5/stat", 0o100444, func(e *regfile.RegFileEntry) { e.MntId = proto.Int32(int32(proc)) })
		files["files.img"] = []byte(criutest.Image("FILES", append(criutest.EntriesOf[*fdinfo.FileEntry](files["files.img"]), f)...))
		table := append(criutest.EntriesOf[*fdinfo.FdinfoEntry](files["fdinfo-2.img"]), criutest.Descriptor(9, f))
		files["fdinfo-2.img"] = []byte(criutest.Image("FDINFO", table...))
		files["remap-fpath.img"] = []byte(criutest.Image("REMAP_FPATH", &remap_fpath.RemapFilePathEntry{
			OrigId: proto.Uint32(id), RemapId: proto.Uint32(5), RemapType: remap_fpath.RemapType_PROCFS.Enum()}))
	},
	// A pod with a terminal, of no file system of terminals.
	func(files map[string][]byte, spec *specs.Spec) {
		spec.Process.Terminal = true
		name := criutest.ImageLike(files, "mountpoints-")
		all := slices.DeleteFunc(criutest.EntriesOf[*mnt.MntEntry](files[name]), func(m proto.Message) bool { return m.(*mnt.MntEntry).GetMountpoint() == "/dev/pts" })
		console := criutest.Mount(950, criutest.MountAt(files, "/dev"), "/dev/console", mnt.Fstype_DEVPTS, "", unix.MS_RELATIME)
		console.RootDev, console.Root = proto.Uint32(4), proto.String("/0")
		files[name] = []byte(criutest.Image("MNTS", append(all, console)...))
	},
}

// FuzzCheckpoint changes whole checkpoints, message by message, and the pod that they are restored in, and verifies them by
// both phases, the second also where the first has refused, as on a node that audits. There is an answer, and never a panic; a
// checkpoint that is accepted comes with no more than the pod has.
func FuzzCheckpoint(f *testing.F) {
	for i := range panicked {
		f.Add(byte(i), []byte{})
		f.Add(byte(i), []byte("some changes of this, and of that, and of more"))
	}
	for i := range 64 {
		f.Add(byte(i), []byte{byte(i * 5), byte(i), byte(255 - i), byte(i * 3), 7, byte(i), 1, byte(i * 11), 2, byte(i), 3, byte(i), 5, 8})
	}
	f.Fuzz(func(t *testing.T, base byte, data []byte) {
		node(t)
		files, spec, c := honestImages(t), honestSpec(t), choices(data)
		panicked[int(base)%len(panicked)](files, spec)
		for range 12 {
			if len(c) == 0 {
				break
			}
			if c.of(6) == 5 {
				c.mutateSpec(t, spec)
			} else {
				c.mutate(files)
			}
		}
		dir := t.TempDir()
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		subject := Subject{Spec: spec}
		var root string
		var errs []error
		for _, phase := range []func() (*Report, error){
			func() (*Report, error) { root = rootOf(t, subject.Images); return Before(t.Context(), subject) },
			func() (*Report, error) { return After(t.Context(), subject, root) },
		} {
			images, err := criu.OpenImages(dir)
			if err != nil {
				t.Fatal(err)
			}
			subject.Images = images
			report, err := phase()
			if report == nil {
				t.Fatal("no report")
			}
			refused, _ := report.Judge(false)
			errs = append(errs, err, refused)
			for name, content := range report.Replaced {
				files[name] = content
			}
			if err := images.Close(); err != nil {
				t.Fatal(err)
			}
		}
		if errors.Join(errs...) == nil {
			requireGranted(t, files, spec)
		}
	})
}
