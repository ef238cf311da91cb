package policy

import (
	"testing"

	"github.com/containerd/errdefs"
)

func TestLazily(t *testing.T) {
	for _, tc := range []struct {
		lazy     Lazy
		memories []int64
		want     bool
	}{
		{"", []int64{1 << 40}, false},
		{LazyOff, []int64{1 << 40}, false},
		{LazyOn, []int64{1}, true},
		{LazyOn, []int64{0}, false},
		{LazyOn, nil, false},
		{LazyOn, []int64{1 << 40, 1 << 40}, true},
		{LazyAuto, []int64{lazyThreshold - 1}, false},
		{LazyAuto, []int64{lazyThreshold}, true},
		{LazyAuto, []int64{lazyThreshold / 2, lazyThreshold / 2}, true},
		{LazyAuto, []int64{1 << 20, 1 << 40, 1 << 20}, true},
		{LazyAuto, []int64{lazyThreshold, 1 << 40}, false},
	} {
		if got := tc.lazy.Lazily(tc.memories...); got != tc.want {
			t.Errorf("%q with %d bytes: %t", tc.lazy, tc.memories, got)
		}
	}
}

func TestPodLazy(t *testing.T) {
	p, err := New(Config{Lazy: LazyAuto, PodAnnotations: []string{"lazy-pages", "tcp-connections"}})
	if err != nil {
		t.Fatal(err)
	}
	for value, want := range map[string]Lazy{"on": LazyOn, "off": LazyOff, "auto": LazyAuto} {
		pod, err := p.Pod(map[string]string{AnnotationPrefix + "lazy-pages": value,
			AnnotationPrefix + "tcp-connections": "close"})
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
