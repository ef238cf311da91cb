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
	if _, err := HasShm(t.Context(), open(t, map[string]string{"devshm-checkpoint.tar": "no archive" +
		string(make([]byte, 600))})); !errdefs.IsInvalidArgument(err) {
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
		"of the node": {archive(segment), spec("/dev/shm", "rw"), errdefs.IsFailedPrecondition},
		"read-only":   {archive(segment), spec(dir, "ro"), errdefs.IsFailedPrecondition},
		"none":        {archive(segment), &specs.Spec{}, errdefs.IsFailedPrecondition},
		"device": {archive(segment, entry{tar.Header{Typeflag: tar.TypeChar, Name: "./null", Devmajor: 1, Devminor: 3},
			""}), spec(t.TempDir(), "rw"), errdefs.IsInvalidArgument},
		"leaves": {archive(segment, entry{tar.Header{Typeflag: tar.TypeReg, Name: "../x"}, "x"}),
			spec(t.TempDir(), "rw"), errdefs.IsInvalidArgument},
		"through link": {archive(segment, entry{tar.Header{Typeflag: tar.TypeSymlink, Name: "./l", Linkname: outside}, ""},
			entry{tar.Header{Typeflag: tar.TypeReg, Name: "./l/secret/x"}, "x"}), spec(t.TempDir(), "rw"), nil},
	} {
		undo, err := FillShm(t.Context(), open(t, c.files), c.spec, checkpoint.DefaultLimits())
		if c.is == nil {
			check(t, err) // it stays inside: the link's target is taken from the root of /dev/shm
			check(t, undo())
		} else if !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
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

// TestFillShmLinks: no link that a checkpoint brings leads to what CRIU has open. Where others lead is for those who
// look at paths.
func TestFillShmLinks(t *testing.T) {
	for target, fine := range map[string]bool{
		"segment": true, "a/b/c": true, "../../x": true, "/dev/shm/x": true, "/var/lib/app": true, "/srv/processes": true,
		"/proc/self/fd/126/../../etc": false, "/proc": false, "../../proc/1/root": false, "x/../proc/self": false,
		"//proc//self": false, "/dev/fd/126/etc": false,
	} {
		dir := t.TempDir()
		write(t, dir, map[string]string{"old": "kept"})
		spec := &specs.Spec{Mounts: []specs.Mount{{Destination: "/dev/shm", Type: "bind", Source: dir}}}
		files := map[string]string{"devshm-checkpoint.tar": tarball(t,
			entry{tar.Header{Typeflag: tar.TypeReg, Name: "./first"}, "x"},
			entry{tar.Header{Typeflag: tar.TypeSymlink, Name: "./l", Linkname: target}, ""})}
		_, err := FillShm(t.Context(), open(t, files), spec, checkpoint.DefaultLimits())
		switch {
		case fine && err != nil:
			t.Errorf("%s: %v", target, err)
		case fine:
			if got, err := os.Readlink(filepath.Join(dir, "l")); err != nil || got != target {
				t.Errorf("%s: %q, %v", target, got, err)
			}
		case !errdefs.IsPermissionDenied(err):
			t.Errorf("%s: got %v, want a refusal", target, err)
		case !slices.Equal(names(t, dir), []string{"old"}):
			t.Errorf("%s: left %q", target, names(t, dir))
		}
	}
}
