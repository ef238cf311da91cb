package verify

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

// BenchmarkLayout compares the names, namespaces and memory of 50 processes with 1 GiB of memory of
// which no two pages lie side by side: each has an entry of its own in a pagemap.
func BenchmarkLayout(b *testing.B) {
	const processes, mappings = 50, 50
	pages := int((1 << 30) / criutest.Page / processes)
	var tasks []criutest.Task
	for pid := range uint32(processes) {
		tasks = append(tasks, criutest.Task{PID: pid + 1})
	}
	files := criutest.Checkpoint(tasks...)
	for i, t := range tasks {
		var ranges []criutest.Range
		for n := range pages {
			ranges = append(ranges, criutest.Range{Start: high + uint64(2*n)*criutest.Page, Pages: 1})
		}
		vmas := []*vma.VmaEntry{criutest.Mapping(high, uint64(2*pages))}
		for n := range uint64(mappings) {
			vmas = append(vmas, criutest.Mapping(2*high+uint64(2*pages)*criutest.Page+n*criutest.Page, 1))
		}
		name := fmt.Sprintf("pages-%d.img", i+1)
		maps.Copy(files, criutest.Memory(t.PID, uint32(i+1), ranges, vmas...))
		files[name] = strings.Repeat("\x00", 1) // written below
	}
	dir := b.TempDir()
	for name, content := range files {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			b.Fatal(err)
		}
		if strings.HasPrefix(name, "pages-") {
			if err := os.Truncate(file, int64(pages)*int64(criutest.Page)); err != nil {
				b.Fatal(err)
			}
		}
	}
	spec := podSpec()
	spec.Process.Capabilities = &specs.LinuxCapabilities{}
	spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: proto.Int64(2 << 30)}}
	began := processorTime(b)
	b.ResetTimer()
	rounds := 0
	for b.Loop() {
		rounds++
		images, err := criu.OpenImages(dir)
		if err != nil {
			b.Fatal(err)
		}
		v, err := newVerifier(b.Context(), Subject{Images: images, Spec: spec}, &Report{})
		if err != nil {
			b.Fatal(err)
		}
		for _, check := range []func() error{v.names, v.inventory, v.processNamespaces, v.memory} {
			if err := check(); err != nil {
				b.Fatal(err)
			}
		}
		if err := v.report.Err(); err != nil {
			b.Fatal(err)
		}
		images.Close()
	}
	b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(rounds)/1000, "cpu-ms/op")
}

// BenchmarkPhases runs both phases over 50 processes of a restricted pod, with a table of a thousand files in a volume and in the
// root file system.
func BenchmarkPhases(b *testing.B) {
	node(b)
	const processes, files = 50, 20
	spec, root, volume := strictPod(b), b.TempDir(), b.TempDir()
	spec.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000, 2000}}
	mounted("/vol", "bind", volume)(spec)
	var tasks []criutest.Task
	for pid := range uint32(processes) {
		tasks = append(tasks, criutest.Task{PID: pid + 1, Core: criutest.Core(func(c *criu_core.CoreEntry) { asRestricted(c.ThreadCore.Creds) })})
	}
	open := []*fdinfo.FileEntry{criutest.Regular(criutest.Program, "/bin/sh", 0o100755)}
	for i := range uint32(processes * files) {
		dir, name := root, fmt.Sprintf("/data/%d/file", i%50)
		if i%2 == 0 {
			dir = volume
		}
		name = fmt.Sprintf("%s-%d", name, i)
		if err := errors.Join(os.MkdirAll(filepath.Dir(dir+name), 0o755), os.WriteFile(dir+name, nil, 0o644), os.Chmod(dir+name, 0o644)); err != nil {
			b.Fatal(err)
		}
		if dir == volume {
			name = "/vol" + name
		}
		open = append(open, criutest.Regular(100+i, name, 0o100644))
	}
	if err := errors.Join(os.Mkdir(root+"/bin", 0o755), os.WriteFile(root+"/bin/sh", nil, 0o755), os.Chmod(root+"/bin/sh", 0o755), os.Chmod(root, 0o755), os.Chmod(volume, 0o755)); err != nil {
		b.Fatal(err)
	}
	images := merged(criutest.Checkpoint(tasks...), criutest.Files(open...), map[string]string{seccompImage: criutest.Seccomp()})
	for _, t := range tasks {
		images[fmt.Sprintf("fs-%d.img", t.PID)] = images["fs-1.img"]
	}
	images = stage(b, images, spec, root)
	s := subjectOf(b, images, spec, Rules{})
	dir := b.TempDir()
	for name, content := range images {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	began := processorTime(b)
	rounds := 0
	for b.Loop() {
		rounds++
		for _, phase := range []func() (*Report, error){
			func() (*Report, error) { return Before(b.Context(), s) }, func() (*Report, error) { return After(b.Context(), s, root) },
		} {
			var err error
			if s.Images, err = criu.OpenImages(dir); err != nil {
				b.Fatal(err)
			}
			report, err := phase()
			if err = errors.Join(err, report.Err(), s.Images.Close()); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64((processorTime(b)-began).Microseconds())/float64(rounds)/1000, "cpu-ms/op")
}

// processorTime is what this process has had of the processors, whatever else they do.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
