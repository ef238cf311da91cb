package policy

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

const (
	hex     = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	imageID = "sha256:" + hex
)

func newPolicy(t *testing.T, c Config) *Policy {
	t.Helper()
	p, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestNewNamesKeyAndPattern(t *testing.T) {
	for _, c := range []struct {
		config Config
		says   []string
	}{
		{Config{Images: []string{"ok", "a["}}, []string{"allowed_images", `"a["`}},
		{Config{Namespaces: []string{"ok", "a/**/b"}}, []string{"allowed_namespaces", `"a/**/b"`, "last element"}},
		{Config{Namespaces: []string{""}}, []string{"allowed_namespaces", "empty"}},
	} {
		_, err := New(c.config)
		wantError(t, err, errdefs.IsInvalidArgument, c.says...)
	}
	newPolicy(t, Config{Images: []string{"ok", "**"}, Namespaces: []string{"ok", "*"}})
}

func TestNamespace(t *testing.T) {
	p := newPolicy(t, Config{Namespaces: []string{"default", "team-*"}})
	for _, ok := range []string{"default", "team-a", ""} {
		if err := p.Namespace(ok); err != nil {
			t.Errorf("%q: %v", ok, err)
		}
	}
	for _, no := range []string{"kube-system", "default2", "ateam-a"} {
		wantError(t, p.Namespace(no), errdefs.IsPermissionDenied, `"`+no+`"`, "allowed_namespaces")
	}
}

func TestImage(t *testing.T) {
	for name, c := range map[string]struct {
		patterns  []string
		requested string
		known     []string
		ok        bool
	}{
		"anything": {[]string{"**"}, imageID, nil, true},
		"nothing":  {nil, imageID, []string{"docker.io/library/a:1"}, false},
		"tag of an ID": {[]string{"r.example/team/**"}, imageID,
			[]string{"r.example/other:1", "r.example/team/a:1"}, true},
		"digest of an ID": {[]string{"r.example/team/*@sha256:*"}, imageID, []string{"r.example/team/a@" + imageID},
			true},
		"no name matches":          {[]string{"r.example/team/**"}, imageID, []string{"r.example/teams/a:1"}, false},
		"requested name":           {[]string{"r.example/team/**"}, "r.example/team/a:1", nil, true},
		"short name, written out":  {[]string{"docker.io/library/*"}, "busybox:1", nil, true},
		"short name, as it is":     {[]string{"busybox:*"}, "busybox:1", nil, true},
		"short name, other one":    {[]string{"docker.io/library/*"}, "evil/busybox:1", nil, false},
		"the ID itself":            {[]string{imageID}, imageID, nil, true},
		"IDs":                      {[]string{"sha256:*"}, imageID, nil, true},
		"a star is no ID":          {[]string{"*"}, imageID, nil, false},
		"another ID":               {[]string{imageID}, "sha256:" + strings.Repeat("0", 64), nil, false},
		"an ID is no library name": {[]string{"docker.io/library/**"}, imageID, nil, false},
		"nor is its hex":           {[]string{"docker.io/library/**"}, hex, nil, false},
		"a host is not a prefix":   {[]string{"r.example/**"}, "r.example.evil.org/a:1", nil, false},
		"case":                     {[]string{"r.example/team/**"}, "r.example/TEAM/a:1", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := newPolicy(t, Config{Images: c.patterns}).Image("called", append(c.known, c.requested)...)
			if c.ok {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			wantError(t, err, errdefs.IsPermissionDenied, "called", "allowed_images")
		})
	}
}

func TestZeroPolicyAdmitsNothing(t *testing.T) {
	var p Policy
	_, archive := p.Archive("/a")
	for what, err := range map[string]error{"namespace": p.Namespace("default"), "image": p.Image("a", "a"),
		"archive": archive} {
		if !errdefs.IsPermissionDenied(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func wantError(t *testing.T, err error, is func(error) bool, says ...string) {
	t.Helper()
	if err == nil {
		t.Error("not refused")
		return
	}
	if !is(err) {
		t.Errorf("wrong class: %v", err)
	}
	for _, s := range says {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("error does not say %q: %v", s, err)
		}
	}
}

func TestBaseImages(t *testing.T) {
	p := newPolicy(t, Config{BaseImages: []string{"registry.example/bases/**"}})
	for name, want := range map[string]bool{"registry.example/bases/a@sha256:" + hex: true,
		"registry.example/other/a:1": false, imageID: false} {
		err := p.BaseImage("called", name)
		if (err == nil) != want || err != nil &&
			(!errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "allowed_base_images")) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := newPolicy(t, Config{}).BaseImage("", "registry.example/a:1"); err != nil {
		t.Errorf("unset: %v", err)
	}
	if err := newPolicy(t, Config{BaseImages: []string{}}).BaseImage("",
		"registry.example/a:1"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("none: %v", err)
	}
}
