package verify

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

func TestMountKinds(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	file := filepath.Join(dir, "file")
	for _, name := range []string{file, filepath.Join(root, "file")} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(root, "dir"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("dir", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		at, source, says string
	}{
		{"/dir", dir, ""}, {"/file", file, ""}, {"/none", file, ""}, {"/none", dir, ""}, {"/link", dir, ""}, {"/out", dir, ""}, {"/dir", "/none", ""},
		{"/dir", file, `"/dir" is a file, and the checkpoint has a directory`},
		{"/file", dir, `"/file" is a directory, and the checkpoint has a file`},
		{"/link", file, `"/link" is a file`},
	} {
		base, err := place.OpenDir(root)
		if err != nil {
			t.Fatal(err)
		}
		v := &verifier{budget: budget{ctx: t.Context()}, spec: &specs.Spec{Mounts: []specs.Mount{{Destination: c.at, Source: c.source, Type: "bind"}}}}
		err = v.mountKinds(&place.Mount{At: "/", Kind: place.Root, Base: base})
		base.Close()
		switch {
		case c.says == "" && err != nil:
			t.Errorf("%s at %s: %v", c.source, c.at, err)
		case c.says != "" && (!errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), c.says)):
			t.Errorf("%s at %s: got %v, want one that says %q", c.source, c.at, err, c.says)
		}
	}
}
