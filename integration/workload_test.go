package integration

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// workloadRepository is where workloadImage pushes.
const workloadRepository = "workload:1"

// envWorkload is integration/workload where it is built already, on a machine without Go.
const envWorkload = "CRI_RESTORE_WORKLOAD"

// workloadProgram builds integration/workload, once in a test process.
var workloadProgram = sync.OnceValues(func() ([]byte, error) {
	if file := os.Getenv(envWorkload); file != "" {
		return os.ReadFile(file)
	}
	repo, err := harness.Repo()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "workload-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "workload")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", file, "./integration/workload")
	build.Dir = repo
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%s: %w: %s", build, err, out)
	}
	return os.ReadFile(file)
})

var buildWorkloadImage = sync.OnceValues(func() (v1.Image, error) {
	program, err := workloadProgram()
	if err != nil {
		return nil, err
	}
	base, err := harness.BusyboxImage()
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	header := &tar.Header{Typeflag: tar.TypeReg, Name: "bin/workload", Mode: 0o755, Size: int64(len(program)),
		ModTime: time.Unix(0, 0)}
	if err := w.WriteHeader(header); err != nil {
		return nil, err
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser,
		error) {
		return io.NopCloser(bytes.NewReader(buf.Bytes())), nil
	},
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	return mutate.AppendLayers(base, layer)
})

// workloadImage is the busybox image with integration/workload as /bin/workload. It is
// pushed to the node's registry and pulled.
func workloadImage(t testing.TB, n *harness.Node) string {
	t.Helper()
	img, err := buildWorkloadImage()
	if err != nil {
		t.Fatalf("workload image: %v", err)
	}
	n.Registry().Push(workloadRepository, img)
	ref := n.Image(workloadRepository)
	n.In(t).Pull(ref)
	return ref
}

// workload runs a mode of integration/workload.
func workload(mode ...string) harness.ContainerOpt {
	return harness.Command(append([]string{"/bin/workload"}, mode...)...)
}

// waitOK waits until a workload container has printed "ok N" with N at least n, and
// returns N. A workload that has found its state wrong fails the test.
func waitOK(t testing.TB, c *harness.Container, n int) int {
	t.Helper()
	var last int
	lines := c.WaitLog(func(lines []string) bool {
		if found := numbers(lines, "ok"); len(found) > 0 {
			last = found[len(found)-1]
		}
		return last >= n || bad(lines) != ""
	})
	if text := bad(lines); text != "" {
		t.Fatalf("workload %v: %s", c.Config.GetCommand(), text)
	}
	return last
}

// requireOKContinues is requireContinues for a workload container.
func requireOKContinues(t testing.TB, c *harness.Container, counted int) int {
	t.Helper()
	restored := oldLines(t, c)
	var found []int
	lines := c.WaitLog(func(lines []string) bool {
		found = numbers(lines, "ok")
		return len(lines) >= restored+3 && len(found) > 0 && found[len(found)-1] > counted+2 || bad(lines) != ""
	})
	if text := bad(lines); text != "" {
		t.Fatalf("workload %v: %s", c.Config.GetCommand(), text)
	}
	requireOneStory(t, found, counted, restored, 0)
	return found[len(found)-1]
}

func bad(lines []string) string {
	i := slices.IndexFunc(lines, func(line string) bool {
		return strings.HasPrefix(line, "BAD") ||
			strings.HasPrefix(line, "panic")
	})
	if i < 0 {
		return ""
	}
	return strings.Join(lines[i:], "\n")
}
