package policy

import (
	"testing"

	"github.com/containerd/errdefs"
)

func TestLazily(t *testing.T) {
	for _, tc := range []struct {
		lazy  Lazy
		pages int64
		want  bool
	}{
		{"", 1 << 40, false}, {LazyOff, 1 << 40, false}, {LazyOn, 1, true}, {LazyOn, 0, false},
		{LazyAuto, lazyThreshold - 1, false}, {LazyAuto, lazyThreshold, true},
	} {
		if got := tc.lazy.Lazily(tc.pages); got != tc.want {
			t.Errorf("%q with %d bytes: %t", tc.lazy, tc.pages, got)
		}
	}
}

func TestPodLazy(t *testing.T) {
	p, err := New(Config{Lazy: LazyAuto, PodAnnotations: []string{"lazy-pages", "tcp-connections"}})
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]Lazy{"on": LazyOn, "off": LazyOff, "auto": LazyAuto} {
		pod, err := p.Pod(map[string]string{AnnotationPrefix + "lazy-pages": value, AnnotationPrefix + "tcp-connections": "close"})
		if err != nil || pod.Lazy != want || pod.TCP != CloseTCP {
			t.Errorf("%s: %+v, %v", value, pod, err)
		}
	}
	if pod, err := p.Pod(nil); err != nil || pod.Lazy != LazyAuto {
		t.Errorf("%+v, %v", pod, err)
	}
	if _, err := p.Pod(map[string]string{AnnotationPrefix + "lazy-pages": "yes"}); !errdefs.IsInvalidArgument(err) {
		t.Errorf("got %v", err)
	}
	if _, err := New(Config{Lazy: "yes"}); err == nil {
		t.Error("a value that there is not")
	}
}
