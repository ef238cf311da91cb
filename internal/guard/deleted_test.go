package guard

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/rights"
)

// yarded are mounts as CRIU has them before it has made the container's of them: 7 has files, 8 is procfs, 9
// read-only.
func yarded(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.mount("", "tmpfs", 0)
	w.enter()
	w.root = yard + "aBcDeF"
	w.mount("mnt-0000000007", "tmpfs", unix.MS_NOSYMFOLLOW)
	w.mount("mnt-0000000008", "proc", 0)
	w.mount("mnt-0000000009", "tmpfs", unix.MS_NOSYMFOLLOW|unix.MS_RDONLY)
	at := func(name string) string { return filepath.Join(w.root, "mnt-0000000007", name) }
	w.inside(func() error {
		return errors.Join(os.Chmod(at("."), 0o755), os.WriteFile(at("file"), nil, 0o600),
			unix.Mkfifo(at("fifo"), 0o600), os.Symlink("/", at("link")),
			os.Mkdir(at("own"), 0o755), os.Chown(at("own"), user, user),
			os.Mkdir(at("sticky"), 0o777), unix.Chmod(at("sticky"), 0o1777),
			os.WriteFile(at("sticky/other"), nil, 0o600), os.Mkdir(at("given"), 0o777), os.Chown(at("given"), 0, 2000),
			unix.Chmod(at("given"), unix.S_ISGID|0o777))
	})
	w.facts = *w.granted()
	w.facts.Grant.Files = &rights.Holder{UID: user, GID: user}
	g := &w.facts.Grant.Process
	g.AnyUID, g.AnyGID, g.UIDs, g.GIDs, g.Sets[1] = false, false, []uint32{user}, []uint32{user}, 0
	return w
}

// at is a path of the volume at /mnt.
func at(mount int32, name string) File { return File{Mount: mount, At: "/mnt", Name: name} }

// TestLookAtPaths has CRIU make deleted files, or open others, at every kind of path.
func TestLookAtPaths(t *testing.T) {
	const dir, file = unix.S_IFDIR | 0o755, unix.S_IFREG | 0o644
	own := func(mount int32, name string, mode uint32) *Deleted {
		return &Deleted{File: at(mount, name), Mode: mode, UID: user, GID: user}
	}
	owned := func(name string, mode, uid, gid uint32) *Deleted {
		return &Deleted{File: at(7, name), Mode: mode, UID: uid, GID: gid}
	}
	linked := func(name string) *Deleted { return &Deleted{File: at(7, name), Linked: true} }
	for name, c := range map[string]struct {
		deleted *Deleted
		open    string
		root    bool // the pod's user may do everything
		says    string
	}{
		"open":                       {open: "/mnt/file"},
		"open, not there":            {open: "/mnt/none"},
		"open, behind a link":        {open: "/mnt/link/etc/passwd"},
		"open FIFO":                  {open: "/mnt/fifo", says: "a FIFO is in the place"},
		"deleted":                    {deleted: own(7, "/mnt/own/gone", file)},
		"deleted with its directory": {deleted: own(7, "/mnt/own/a/b/gone", file)},
		"deleted directory":          {deleted: own(7, "/mnt/own/gone", dir)},
		"directory over another":     {deleted: own(7, "/mnt/own", dir), says: "something is where"},
		"directory over a file":      {deleted: own(7, "/mnt/file", dir), says: "something is where", root: true},
		"directory over a link":      {deleted: own(7, "/mnt/link", dir), says: "something is where", root: true},
		"behind a link":              {deleted: own(7, "/mnt/link/gone", file)},
		"set-user-ID":                {deleted: own(7, "/mnt/own/gone", file|unix.S_ISUID), says: "set-user-ID", root: true},
		"set-group-ID directory":     {deleted: own(7, "/mnt/own/gone", dir|unix.S_ISGID), says: "set-group-ID", root: true},
		"of root":                    {deleted: owned("/mnt/own/gone", file, 0, user), says: "user 0, allowed [1000]"},
		"of another group":           {deleted: owned("/mnt/own/gone", file, user, 2000), says: "group 2000"},
		"of the directory's group":   {deleted: owned("/mnt/given/gone", file, user, 2000)},
		"directory, closed":          {deleted: owned("/mnt/own/gone", unix.S_IFDIR|closedMode, 0, 0)},
		"where only root may":        {deleted: own(7, "/mnt/gone", file), says: "may not change"},
		"where root may":             {deleted: own(7, "/mnt/gone", file), root: true},
		"in procfs":                  {deleted: own(8, "/mnt/self/root/gone", file), says: "of type proc", root: true},
		"in no mount":                {deleted: own(6, "/mnt/gone", file), says: "is not there", root: true},
		"the mount":                  {deleted: own(7, "/mnt", dir), says: "not below its mount", root: true},
		"in another mount":           {deleted: own(7, "/other/gone", file), says: "not below its mount", root: true},
		"upwards":                    {deleted: own(7, "/mnt/../../gone", file), says: "not below its mount", root: true},
		"another's link":             {deleted: linked("/mnt/sticky/other"), says: "may not remove"},
		"another's link, as root":    {deleted: linked("/mnt/sticky/other"), root: true},
		"link that is not there":     {deleted: linked("/mnt/sticky/none")},
		"link where only root may":   {deleted: linked("/mnt/file"), says: "may not change"},
	} {
		t.Run(name, func(t *testing.T) {
			w := yarded(t)
			if c.root {
				w.facts.Grant.Files = nil
			}
			if c.deleted != nil {
				w.paths.Deleted = []Deleted{*c.deleted}
			} else {
				w.paths.Files = []File{at(7, c.open)}
			}
			err := w.run(stageMounted)
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("got %v, want %q", err, c.says)
			}
			if c.says != "" && c.open == "" && !errdefs.IsPermissionDenied(err) {
				t.Errorf("it is no refusal: %v", err)
			}
		})
	}
}

// TestLookAtPathsAudited: where the checkpoint itself asks for more than the pod's user may, an audit has said so.
func TestLookAtPathsAudited(t *testing.T) {
	for permitted, says := range map[bool]string{true: "may not change", false: ""} {
		w := yarded(t)
		w.facts.Audit, w.facts.Permitted = true, permitted
		w.paths.Deleted = []Deleted{{File: at(7, "/mnt/gone"), Mode: unix.S_IFREG | 0o644, UID: user, GID: user}}
		if err := w.run(stageMounted); (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("permitted %t: %v, want %q", permitted, err, says)
		}
	}
}
