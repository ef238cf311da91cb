package verify

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// TestEndedProcessIsOpen: `sleep 1 & exec 3</proc/$!/stat`, an honest checkpoint.
func TestEndedProcessIsOpen(t *testing.T) {
	report, err := openFilesOf(t, merged(criutest.Files(regularAt("/proc/5/stat", 0o100444, criutest.ProcMount, 0)...), remaps(9, 5, remapProc)), filesSpec(nil), Rules{})
	requireFinding(t, report, err, "")
}

// TestConsoleWithoutTerminals: a terminal that is one of no file system of terminals.
func TestConsoleWithoutTerminals(t *testing.T) {
	aNode(t)
	console := criutest.Mount(50, 3, "/dev/console", mnt.Fstype_DEVPTS, "", unix.MS_RELATIME)
	console.RootDev, console.Root = proto.Uint32(4), proto.String("/0")
	spec := mountsSpec()
	spec.Process.Terminal = true
	dev := append(criutest.DevFiles(), criutest.File("./console", ""))
	wantFindings(t, criutest.MountImages(append(changed("/dev/pts", nil), console), dev, criutest.CgroupFiles()), spec, "/dev/console", "/dev/pts")
}

// TestVolumesThatWouldBlock: a FIFO and a device as volumes; nobody writes to the one, and to open the other may do something.
func TestVolumesThatWouldBlock(t *testing.T) {
	dir := t.TempDir()
	fifo, device := filepath.Join(dir, "fifo"), filepath.Join(dir, "device")
	if err := errors.Join(unix.Mkfifo(fifo, 0o644), unix.Mknod(device, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))); err != nil {
		t.Fatal(err)
	}
	for _, source := range []string{fifo, device} {
		done := make(chan struct{})
		go func() {
			defer close(done)
			bind := mounted("/volume", "bind", source)
			report, err := openFilesOf(t, criutest.Files(), filesSpec(bind), Rules{})
			requireFinding(t, report, err, "")
			spec := accessSpec()
			bind(spec)
			report, err = accessTo(t, spec, t.TempDir(), criutest.Files(), nil)
			requireFinding(t, report, err, "")
		}()
		select {
		case <-done:
		case <-time.After(time.Minute):
			// Let go of whoever waits, so that the test can end.
			if f, err := os.OpenFile(source, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
				f.Close()
			}
			t.Fatalf("%s blocks", source)
		}
	}
}

// TestMountPointsThatConfuse: links of the image must not lead to what runc and CRIU take for another mount (CVE-2026-119101).
func TestMountPointsThatConfuse(t *testing.T) {
	aNode(t)
	spec := mountsSpec()
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/evil", Type: "bind", Source: "/x", Options: []string{"rbind", "rw"}})
	for target, says := range map[string]string{
		"/other": "", "/data]:/etc": "another one", "/dev/null]:/etc": "another one", `/a\040`: "another one", "/a\nb": "another one", "/": "root of the container",
	} {
		at := target
		mounts := more(criutest.Bind(50, 1, at, at, unix.MS_RELATIME))
		if target == "/" {
			mounts = more()
		}
		v, _, err := checkMountsIn(t, mountFiles(mounts), spec, map[string]string{"evil": target})
		requireMounts(t, v, err, says)
		if says != "" && !v.report.always {
			t.Errorf("%q: an audit would let it through", target)
		}
	}
	for _, p := range []string{"/proc/a]:/b", "/"} {
		spec := mountsSpec()
		spec.Linux.MaskedPaths = []string{p}
		wantFindings(t, mountFiles(more()), spec, "a masked path")
	}
}
