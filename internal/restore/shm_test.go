package restore

import (
	"archive/tar"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

func TestHasShm(t *testing.T) {
	root := entry{tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o1777}, ""}
	file := entry{tar.Header{Typeflag: tar.TypeReg, Name: "./segment", Mode: 0o600}, "x"}
	for name, c := range map[string]struct {
		files map[string]string
		want  bool
	}{
		"no archive": {nil, false},
		"empty":      {map[string]string{"devshm-checkpoint.tar": tarball(t, root)}, false},
		"a file":     {map[string]string{"devshm-checkpoint.tar": tarball(t, root, file)}, true},
	} {
		got, err := HasShm(t.Context(), open(t, c.files))
		if err != nil || got != c.want {
			t.Errorf("%s: %t, %v", name, got, err)
		}
	}
	if _, err := HasShm(t.Context(), open(t, map[string]string{"devshm-checkpoint.tar": "no archive" + string(make([]byte, 600))})); !errdefs.IsInvalidArgument(err) {
		t.Errorf("no archive: %v", err)
	}
}

func TestFillShm(t *testing.T) {
	archive := func(entries ...entry) map[string]string {
		return map[string]string{"devshm-checkpoint.tar": tarball(t, entries...)}
	}
	segment := entry{tar.Header{Typeflag: tar.TypeReg, Name: "./segment", Mode: 0o600, Uid: 7, Gid: 8}, "new"}
	literal := entry{tar.Header{Typeflag: tar.TypeReg, Name: "./.wh.other", Mode: 0o600}, "literal"}
	spec := func(source string, options ...string) *specs.Spec {
		return &specs.Spec{Mounts: []specs.Mount{{Destination: "/dev/shm", Type: "bind", Source: source, Options: options}}}
	}
	dir := t.TempDir()
	write(t, dir, map[string]string{"segment": "of an earlier life", "other": "kept"})
	undo, err := FillShm(t.Context(), open(t, archive(segment, literal)), spec(dir, "rw"), checkpoint.DefaultLimits())
	check(t, err)
	for name, want := range map[string]string{"segment": "new", "other": "kept", ".wh.other": "literal"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	check(t, undo())
	if got := names(t, dir); !slices.Equal(got, []string{"other", "segment"}) {
		t.Errorf("undone: %q", got)
	}

	outside := t.TempDir()
	write(t, outside, map[string]string{"secret": "x"})
	for name, c := range map[string]struct {
		files map[string]string
		spec  *specs.Spec
		is    func(error) bool
	}{
		"of the node":  {archive(segment), spec("/dev/shm", "rw"), errdefs.IsFailedPrecondition},
		"read-only":    {archive(segment), spec(dir, "ro"), errdefs.IsFailedPrecondition},
		"none":         {archive(segment), &specs.Spec{}, errdefs.IsFailedPrecondition},
		"device":       {archive(segment, entry{tar.Header{Typeflag: tar.TypeChar, Name: "./null", Devmajor: 1, Devminor: 3}, ""}), spec(t.TempDir(), "rw"), errdefs.IsInvalidArgument},
		"leaves":       {archive(segment, entry{tar.Header{Typeflag: tar.TypeReg, Name: "../x"}, "x"}), spec(t.TempDir(), "rw"), errdefs.IsInvalidArgument},
		"through link": {archive(segment, entry{tar.Header{Typeflag: tar.TypeSymlink, Name: "./l", Linkname: outside}, ""}, entry{tar.Header{Typeflag: tar.TypeReg, Name: "./l/secret/x"}, "x"}), spec(t.TempDir(), "rw"), errdefs.IsPermissionDenied},
	} {
		undo, err := FillShm(t.Context(), open(t, c.files), c.spec, checkpoint.DefaultLimits())
		if !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
		check(t, undo())
		if len(c.spec.Mounts) > 0 && c.spec.Mounts[0].Source != "/dev/shm" && c.spec.Mounts[0].Source != dir {
			if left := names(t, c.spec.Mounts[0].Source); len(left) > 0 {
				t.Errorf("%s: left %q", name, left)
			}
		}
	}
	if got, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(got) != "x" {
		t.Errorf("outside: %q, %v", got, err)
	}
}

// TestFillShmLinks: whatever follows a link that a checkpoint has brought stays in /dev/shm.
func TestFillShmLinks(t *testing.T) {
	link := func(name, target string) entry {
		return entry{tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}, ""}
	}
	dirs := []entry{{tar.Header{Typeflag: tar.TypeDir, Name: "./a/", Mode: 0o755}, ""}, {tar.Header{Typeflag: tar.TypeDir, Name: "./a/b/", Mode: 0o755}, ""}}
	for name, c := range map[string]struct {
		entries []entry
		fine    bool
	}{
		"beside":              {[]entry{link("./l", "segment")}, true},
		"below":               {[]entry{link("./l", "a/b/c")}, true},
		"up, not out":         {[]entry{link("./a/b/l", "../../segment")}, true},
		"to the top":          {[]entry{link("./a/b/l", "../..")}, true},
		"absolute, inside":    {[]entry{link("./l", "/dev/shm/a/x")}, true},
		"absolute":            {[]entry{link("./l", "/proc/self/fd/126/../../etc")}, false},
		"absolute, then up":   {[]entry{link("./l", "/dev/shm/../../etc")}, false},
		"by its looks inside": {[]entry{link("./l", "/dev/shmx/etc")}, false},
		"out":                 {[]entry{link("./a/b/l", "../../../etc")}, false},
		"out, at once":        {[]entry{link("./l", "..")}, false},
		"down and up":         {[]entry{link("./d", "."), link("./l", "d/..")}, false},
		"a name of two names": {[]entry{link("./a/b/l", "../segment"), {tar.Header{Typeflag: tar.TypeLink, Name: "./l", Linkname: "./a/b/l"}, ""}}, false},
		"behind another link": {[]entry{link("./d", "a/b"), link("./d/l", "../segment")}, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string]string{"old": "kept"})
			spec := &specs.Spec{Mounts: []specs.Mount{{Destination: "/dev/shm", Type: "bind", Source: dir}}}
			files := map[string]string{"devshm-checkpoint.tar": tarball(t, append(slices.Clone(dirs), c.entries...)...)}
			_, err := FillShm(t.Context(), open(t, files), spec, checkpoint.DefaultLimits())
			switch {
			case c.fine && err != nil:
				t.Error(err)
			case c.fine:
				if _, err := os.Lstat(filepath.Join(dir, c.entries[0].Name)); err != nil {
					t.Error(err)
				}
			case !errdefs.IsPermissionDenied(err):
				t.Errorf("got %v, want a refusal", err)
			case !slices.Equal(names(t, dir), []string{"old"}):
				t.Errorf("left %q", names(t, dir))
			}
		})
	}
}
