package upstream

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"os"
)

// TestPatchesApply holds the patches for containerd against the containerd that is built against.
func TestPatchesApply(t *testing.T) {
	patches, err := filepath.Glob("../../docs/upstream/*.patch")
	if err != nil || len(patches) == 0 {
		t.Fatalf("%d patches, %v", len(patches), err)
	}
	page, err := os.ReadFile("../../docs/upstream/README.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := golist(t, "{{.Dir}}")
	for _, patch := range patches {
		if !strings.Contains(string(page), "]("+filepath.Base(patch)+")") {
			t.Errorf("%s is not on the page", filepath.Base(patch))
		}
		file, err := filepath.Abs(patch)
		if err != nil {
			t.Fatal(err)
		}
		apply := exec.CommandContext(t.Context(), "git", "apply", "--check", file)
		apply.Dir = dir
		apply.Env = append(apply.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir))
		if out, err := apply.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: is the bug mended? %s", filepath.Base(patch), err, out)
		}
	}
}
