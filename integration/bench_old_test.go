package integration

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// oldNode is a containerd 2.3.7, the last line that restores by itself, with that turned on, and with its own shim.
func oldNode(b *testing.B, registry *harness.Registry) *harness.Node {
	b.Helper()
	tools := harness.Require(b)
	dir := filepath.Join(tools.Bin, "v2.3.7")
	binary := filepath.Join(dir, "containerd")
	if _, err := os.Stat(binary); err != nil {
		b.Fatalf("%v: run make build-old", err)
	}
	return harness.New(b, harness.WithBinary(binary), harness.WithEnv("PATH="+dir+":"+tools.Path()),
		harness.WithRegistry(registry), harness.WithLogLevel("info"),
		harness.WithConfig("[plugins.'io.containerd.cri.v1.runtime']\nenable_experimental_restore_via_create = true"))
}
