package policy

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestPatterns(t *testing.T) {
	for _, c := range []struct {
		pattern string
		yes, no []string
	}{
		{"**", []string{"a", "a/b", "registry.example:5000/a/b/c:1", "/a"}, []string{""}},
		{"*", []string{"a", "default", "a:1"}, []string{"", "a/b"}},
		{"default", []string{"default"}, []string{"defaults", "Default", "a/default", ""}},
		{"team-?", []string{"team-a"}, []string{"team-", "team-ab", "team-/"}},
		{"team-[a-c]", []string{"team-b"}, []string{"team-d"}},
		{"r.example/team/*", []string{"r.example/team/a", "r.example/team/a:1", "r.example/team/a@sha256:00"},
			[]string{"r.example/team", "r.example/team/a/b", "r.example/teams/a", "x/r.example/team/a"}},
		{"r.example/team/**", []string{"r.example/team/a", "r.example/team/a/b/c:1"},
			[]string{"r.example/team", "r.example/teams/a", "x.r.example/team/a", "r.example/x/team/a"}},
		{"*.example/**", []string{"r.example/a", "r.example/a/b"}, []string{"r.example", "r.example.org/a", "x/r.example/a"}},
		{"r.example/*/ok/**", []string{"r.example/a/ok/b"}, []string{"r.example/a/b/ok/c", "r.example/a/ok"}},
		{`a\*`, []string{"a*"}, []string{"ab"}},
	} {
		p, err := NewPattern(c.pattern)
		if err != nil {
			t.Errorf("%q: %v", c.pattern, err)
			continue
		}
		for _, name := range c.yes {
			if !p.Match(name) {
				t.Errorf("%q does not match %q", c.pattern, name)
			}
		}
		for _, name := range c.no {
			if p.Match(name) {
				t.Errorf("%q matches %q", c.pattern, name)
			}
		}
	}
}

func TestBadPatterns(t *testing.T) {
	for _, bad := range []string{"", "a[", "a/b[/**", "a**", "**/a", "a/**/b", "a/***", "/**", `a\`} {
		_, err := NewPattern(bad)
		if !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: got %v, want invalid argument", bad, err)
			continue
		}
		if !strings.Contains(err.Error(), `"`+strings.ReplaceAll(bad, `\`, `\\`)+`"`) && bad != "" {
			t.Errorf("%q: the error does not name the pattern: %v", bad, err)
		}
	}
}

func TestZeroPatternMatchesNothing(t *testing.T) {
	for _, name := range []string{"", "a", "a/b"} {
		if (Pattern{}).Match(name) {
			t.Errorf("matches %q", name)
		}
	}
}
