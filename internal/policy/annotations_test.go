package policy

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestPodAnnotations(t *testing.T) {
	for name, c := range map[string]struct {
		heard       []string
		node        TCP
		annotations map[string]string
		want        TCP
		is          func(error) bool // nil: admitted
		says        string
	}{
		"none":    {nil, CloseTCP, nil, CloseTCP, nil, ""},
		"others'": {nil, "", map[string]string{"a": "b", "org.criu.restored/x": "y"}, "", nil, ""},
		"heard": {[]string{"tcp-connections"}, RefuseTCP,
			map[string]string{"org.criu.restore/tcp-connections": "close"}, CloseTCP, nil, ""},
		"stricter than node": {[]string{"tcp-connections"}, RestoreTCP,
			map[string]string{"org.criu.restore/tcp-connections": "refuse"}, RefuseTCP, nil, ""},
		"not heard": {nil, CloseTCP, map[string]string{"org.criu.restore/tcp-connections": "close"}, "",
			errdefs.IsPermissionDenied, "pod_annotations"},
		"a bad value": {[]string{"tcp-connections"}, "",
			map[string]string{"org.criu.restore/tcp-connections": "keep"}, "", errdefs.IsInvalidArgument, `"keep"`},
		"unknown": {[]string{"tcp-connections"}, "", map[string]string{"org.criu.restore/wish": ""}, "",
			errdefs.IsInvalidArgument, "wish"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPolicy(t, Config{PodAnnotations: c.heard, TCP: c.node})
			got, err := p.Pod(c.annotations)
			if c.is == nil {
				if err != nil || got.TCP != c.want {
					t.Errorf("%+v, %v", got, err)
				}
				return
			}
			if !c.is(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestPodOnFailure(t *testing.T) {
	p := newPolicy(t, Config{PodAnnotations: []string{"on-failure"}})
	for value, want := range map[string]OnFailure{"fail": Fail, "start-fresh": StartFresh} {
		if got, err := p.Pod(map[string]string{AnnotationPrefix + "on-failure": value}); err != nil || got.OnFailure != want {
			t.Errorf("%q: %+v, %v", value, got, err)
		}
	}
	for _, bad := range []string{"", "restart", "START-FRESH"} {
		if _, err := p.Pod(map[string]string{AnnotationPrefix + "on-failure": bad}); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if got, err := p.Pod(nil); err != nil || got.OnFailure == StartFresh {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := newPolicy(t, Config{}).Pod(map[string]string{AnnotationPrefix +
		"on-failure": "start-fresh"}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("not heard: %v", err)
	}
}
