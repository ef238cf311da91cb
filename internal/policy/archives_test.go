package policy

import (
	"testing"

	"github.com/containerd/errdefs"
)

func TestArchive(t *testing.T) {
	if IsArchive("busybox") || IsArchive("") || !IsArchive("/a/b.tar") {
		t.Error("only what begins with a slash is an archive")
	}
	const kubelets = "/var/lib/kubelet/checkpoints"
	closed, open := newPolicy(t, Config{Images: []string{"**"}}), newPolicy(t, Config{AllowArchives: true})
	some := newPolicy(t, Config{ArchiveDirs: []string{kubelets, "/srv"}})
	if dir, err := open.Archive(kubelets + "/c.tar"); err != nil || dir != "" {
		t.Errorf("%q, %v", dir, err)
	}
	for file, want := range map[string]string{kubelets + "/c.tar": kubelets, kubelets + "/a/b.tar": kubelets,
		"/srv/c.tar": "/srv"} {
		if dir, err := some.Archive(file); err != nil || dir != want {
			t.Errorf("%s: %q, %v", file, dir, err)
		}
	}
	_, err := closed.Archive("/a/b.tar")
	wantError(t, err, errdefs.IsPermissionDenied, "/a/b.tar", "allow_archives")
	for _, other := range []string{kubelets, kubelets + "2/c.tar", "/var/lib/kubelet/c.tar", "/c.tar", "/srv"} {
		_, err := some.Archive(other)
		wantError(t, err, errdefs.IsPermissionDenied, `"`+other+`"`, kubelets, "allow_archives")
	}
	for _, bad := range []string{"/srv/../b.tar", "/srv//b.tar", "/srv/./b.tar", "/srv/", "srv/b.tar", ""} {
		for _, p := range []*Policy{open, some} {
			_, err := p.Archive(bad)
			wantError(t, err, errdefs.IsInvalidArgument, `"`+bad+`"`)
		}
	}
	for _, bad := range []string{"", "/", "srv", "/srv/", "/a/../b"} {
		if _, err := New(Config{ArchiveDirs: []string{bad}}); err == nil {
			t.Errorf("%q is no directory to allow", bad)
		}
	}
}
