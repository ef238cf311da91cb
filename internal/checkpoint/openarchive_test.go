package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

func TestUnpackBelow(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	good := tarball(t, containerdFiles().entries()...)
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{filepath.Join(dir, "a.tar"), filepath.Join(dir, "sub/b.tar"),
		filepath.Join(outside, "c.tar")} {
		if err := os.WriteFile(file, good, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"in": "sub", "round": "../" + filepath.Base(dir) + "/sub", "out": outside,
		"link.tar": "a.tar"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, is := range map[string]func(error) bool{
		"a.tar": nil, "sub/b.tar": nil, "in/b.tar": nil,
		"out/c.tar": errdefs.IsPermissionDenied, "out/none.tar": errdefs.IsPermissionDenied,
		"round/b.tar": errdefs.IsPermissionDenied,
		"link.tar":    errdefs.IsInvalidArgument, "sub": errdefs.IsInvalidArgument,
		"none.tar": errdefs.IsNotFound, "a.tar/x": func(err error) bool { return errors.Is(err, unix.ENOTDIR) },
	} {
		t.Run(name, func(t *testing.T) {
			dst := t.TempDir()
			err := UnpackBelow(t.Context(), dir, filepath.Join(dir, name), dst, DefaultLimits())
			if is != nil {
				wantError(t, err, is, name)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(dst, "config.dump")); err != nil {
				t.Error(err)
			}
		})
	}
	if err := UnpackBelow(t.Context(), "", filepath.Join(dir, "out/c.tar"), t.TempDir(), DefaultLimits()); err != nil {
		t.Errorf("anywhere: %v", err)
	}
	wantError(t, UnpackBelow(t.Context(), dir+"-none", dir+"-none/a.tar", t.TempDir(), DefaultLimits()),
		errdefs.IsNotFound, "none")
}
