package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestAttackModes looks at the modes of everything that a restore writes, with an archive whose entries
// ask for the worst: memory holds secrets, and what a checkpoint brings must not run on the node.
func TestAttackModes(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	program := regularEntry("program", "#!/bin/sh\n")
	program.Mode = 0o6777
	program.PAXRecords = map[string]string{
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\xff\xff\xff\xff" + strings.Repeat("\x00", 12),
	}
	all := slices.Clone(a.honest)
	for i := range all {
		all[i].Mode = 0o777
	}
	all = append(all, program)
	archive, image := doctoredArchive(t, a.n, all), layerImage(t, a.n, all)
	a.n.Pull(image)
	for what, source := range map[string]string{"archive": archive, "image": image} {
		t.Run(what, func(t *testing.T) {
			a.accepts(t, source, func(*harness.Container) {
				a.requirePrivate(t, what == "archive")
				if what == "image" {
					a.requireHarmlessViews(t)
				}
			})
		})
	}
	t.Run("running", func(t *testing.T) {
		a.accepts(t, a.archive, func(c *harness.Container) {
			c.Start()
			requireContinues(t, c, a.counted)
			a.requirePrivate(t, false)
			if info, err := os.Stat(checkpointOf(t, c)); err != nil || info.Mode().Perm()&0o077 != 0 {
				t.Errorf("a new checkpoint: %v, error %v, want only the owner to read it", info.Mode(), err)
			}
		})
	})
}

// requirePrivate checks the plugin's folders: nobody but root gets in, whatever is mounted there.
func (a *target) requirePrivate(t *testing.T, unpacked bool) {
	t.Helper()
	files := 0
	for _, root := range []string{a.n.Root(), a.n.State()} {
		dir := filepath.Join(root, "io.containerd.cri.v1.restore")
		err := filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "view" {
				return fs.SkipDir // another file system's, below what is private
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			want := fs.FileMode(0o600)
			if d.IsDir() {
				want = fs.ModeDir | 0o700
			} else {
				files++
			}
			if info.Mode() != want && file != dir {
				t.Errorf("%s: mode %v, want %v", file, info.Mode(), want)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
	if unpacked && files < len(a.honest)/2 {
		t.Errorf("only %d files are there, and an archive was unpacked", files)
	}
}

// requireHarmlessViews checks how checkpoint images are mounted.
func (a *target) requireHarmlessViews(t *testing.T) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(func(i *mountinfo.Info) (skip, stop bool) {
		return !strings.HasPrefix(i.Mountpoint, a.n.State()) || filepath.Base(i.Mountpoint) != "view", false
	})
	if err != nil || len(mounts) == 0 {
		t.Fatalf("views: %v, error %v", mounts, err)
	}
	for _, m := range mounts {
		for _, option := range []string{"ro", "nosuid", "nodev", "noexec"} {
			if !slices.Contains(strings.Split(m.Options, ","), option) {
				t.Errorf("%s is mounted %s, want %s", m.Mountpoint, m.Options, option)
			}
		}
	}
}
