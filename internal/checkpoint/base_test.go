package checkpoint

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestContentReference(t *testing.T) {
	digest := "@sha256:" + hexA
	for value, want := range map[string]string{
		"registry.example:5000/team/base" + digest:   "registry.example:5000/team/base" + digest,
		"registry.example:5000/team/base:1" + digest: "registry.example:5000/team/base" + digest,
		"busybox" + digest:                           "docker.io/library/busybox" + digest,
		"[::1]:5000/base" + digest:                   "[::1]:5000/base" + digest,
		"r.example/b@sha512:" + hexA + hexB:          "r.example/b@sha512:" + hexA + hexB,
		"sha256:" + hexA:                             "sha256:" + hexA,
		hexA:                                         "sha256:" + hexA,
	} {
		if got, err := contentReference(value, "f"); err != nil || got != want {
			t.Errorf("%q: %q, %v", value, got, err)
		}
	}
	for _, value := range []string{
		"registry.example/base:1", "registry.example/base", "base", "base:latest",
		"registry.example/base@sha256:abc", "registry.example/base@md5:" + hexA, "@sha256:" + hexA,
		strings.ToUpper(hexA), "sha256:" + strings.ToUpper(hexA), "sha256:" + hexA[1:], "sha512:" + hexA, hexA + "a",
		"registry.example/base" + digest + "\n", "registry.example/\x00base" + digest, " registry.example/base" + digest,
		"registry.example/BASE" + digest, "https://registry.example/base" + digest, "../base" + digest, "/base" + digest,
		"registry.example/" + strings.Repeat("b", 300) + digest, hexA + "\n", "-v", "r.example/b" + digest + digest,
	} {
		got, err := contentReference(value, "some.field")
		if err == nil {
			t.Errorf("%q: accepted as %q", value, got)
			continue
		}
		wantError(t, err, errdefs.IsInvalidArgument, "config.dump", "some.field", "base image")
	}
}

func TestBaseImage(t *testing.T) {
	digests := `"io.kubernetes.cri-o.ImageRepoDigests":"registry.example:5000/base@sha256:` + hexA + `"`
	for _, tc := range []struct {
		name  string
		files files
		want  string // "" for refused
		says  string
	}{
		{"containerd, image ID", replaced(containerdFiles(), "config.dump", "registry.example:5000/base@sha256:", "sha256:"),
			"sha256:" + hexA, ""},
		{"containerd, bare ID", replaced(containerdFiles(), "config.dump", "registry.example:5000/base@sha256:", ""),
			"sha256:" + hexA, ""},
		{"containerd, none", replaced(containerdFiles(), "config.dump", "rootfsImageRef", "x"), "", "rootfsImageRef"},
		{"containerd, tag", replaced(containerdFiles(), "config.dump", "@sha256:"+hexA, ":1"), "", "rootfsImageRef"},
		{"containerd, CRI-O's annotation decides nothing",
			replaced(containerdFiles(), "spec.dump", `"annotations":{`, `"annotations":{`+digests+`,`),
			"registry.example:5000/base@sha256:" + hexA, ""},

		{"CRI-O, several digests", replaced(crioFiles(), "spec.dump", digests,
			digests[:len(digests)-1]+`,r.example/c@sha256:`+hexB+`"`), "registry.example:5000/base@sha256:" + hexA, ""},
		{"CRI-O, no digest", replaced(crioFiles(), "spec.dump", digests, `"x":""`), "sha256:" + hexB, ""},
		{"CRI-O, empty digest", replaced(crioFiles(), "spec.dump", digests, `"io.kubernetes.cri-o.ImageRepoDigests":""`),
			"sha256:" + hexB, ""},
		{"CRI-O, digest is garbage", replaced(crioFiles(), "spec.dump", "base@sha256:", "base:"), "sha256:" + hexB, ""},
		{"CRI-O, digest is an ID", replaced(crioFiles(), "spec.dump", "registry.example:5000/base@sha256:", ""),
			"sha256:" + hexB, ""},
		{"CRI-O, neither", replaced(replaced(crioFiles(), "spec.dump", digests, `"x":""`), "config.dump", "rootfsImageRef",
			"x"), "", "rootfsImageRef"},
		{"CRI-O, garbage", replaced(replaced(crioFiles(), "spec.dump", digests, `"x":""`), "config.dump", hexB, "../x"), "",
			"rootfsImageRef"},

		{"Podman, with algorithm", replaced(podmanFiles(), "config.dump", hexB, "sha256:"+hexB), "sha256:" + hexB, ""},
		{"Podman, none", replaced(podmanFiles(), "config.dump", "rootfsImageID", "x"), "", "rootfsImageID"},
		{"Podman, garbage", replaced(podmanFiles(), "config.dump", hexB, "b"), "", "rootfsImageID"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, err := Open(tc.files.tree(t), DefaultLimits())
			if tc.want == "" {
				wantError(t, err, errdefs.IsInvalidArgument, "config.dump", tc.says)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if got := c.Metadata.Base.Reference; got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
