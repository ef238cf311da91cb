package verify

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/vma"
	specs "github.com/opencontainers/runtime-spec/specs-go"
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
	b.ResetTimer()
	for b.Loop() {
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
}
