package image

import (
	"testing"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

func TestCredentials(t *testing.T) {
	auth := &runtime.AuthConfig{Username: "me"}
	for _, c := range []struct {
		image, base string
		want        bool
	}{
		{"registry.example/a:1", repo + "@sha256:1", false}, // no reference
		{"registry.example/a:1", "registry.example/b:1", true},
		{"registry.example:5000/a:1", "registry.example/b:1", false},
		{"registry.example:5000/a", "registry.example:5000/b", true},
		{"busybox", "docker.io/library/busybox:1", true},
		{"busybox", "index.docker.io/someone/x", true},
		{"busybox", "evil.example/docker.io/busybox", false},
		{"registry.example/a:1", "registry.example.evil/b", false},
		{"busybox", "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", false},
		{"sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "busybox", false},
		{"", "", false},
	} {
		if got := Credentials(auth, c.image, checkpoint.BaseImage{Reference: c.base}) != nil; got != c.want {
			t.Errorf("Credentials(%q, %q): %v", c.image, c.base, got)
		}
	}
	// Podman's checkpoints have an ID, and a name by which is asked.
	const id = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	for name, want := range map[string]bool{"registry.example/b:1": true, "registry.evil/b:1": false, "": false} {
		if got := Credentials(auth, "registry.example/a:1",
			checkpoint.BaseImage{Name: name, Reference: id}) != nil; got != want {
			t.Errorf("Credentials for %q: %v", name, got)
		}
	}
	if Credentials(nil, "busybox", checkpoint.BaseImage{Reference: "busybox"}) != nil {
		t.Error("credentials out of nothing")
	}
}
