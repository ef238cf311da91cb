package policy

import (
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestPodCommands(t *testing.T) {
	all := []string{AnnotationBeforeCheckpoint, AnnotationAfterCheckpoint, AnnotationAfterRestore}
	p, err := New(Config{PodAnnotations: all})
	if err != nil {
		t.Fatal(err)
	}
	pod, err := p.Pod(map[string]string{
		AnnotationPrefix + "before-checkpoint": `{"app": ["/quiesce", ""], "side": ["true"]}`,
		AnnotationPrefix + "after-checkpoint":  `{"app": ["/go-on"]}`,
		AnnotationPrefix + "after-restore":     ` {"side": ["/begin"]} `,
	})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(pod.Before["app"], []string{"/quiesce", ""}) || !slices.Equal(pod.Before["side"], []string{"true"}) ||
		!slices.Equal(pod.After["app"], []string{"/go-on"}) || !slices.Equal(pod.Restored["side"], []string{"/begin"}) ||
		pod.Restored["app"] != nil {
		t.Errorf("got %v", pod)
	}
	for _, name := range all {
		for value, says := range map[string]string{
			"": "EOF", "null": "something else", "/quiesce": "invalid character", `["/quiesce"]`: "cannot unmarshal array",
			`{"app": "/quiesce"}`: "cannot unmarshal string",
			`{"app": []}`:         `container "app" is empty`, `{"app": [""]}`: `container "app" is empty`,
			`{"app": ["x"]} {}`: "something else",
		} {
			_, err := p.Pod(map[string]string{AnnotationPrefix + name: value})
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) ||
				!strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "JSON object") {
				t.Errorf("%s %q: error %v", name, value, err)
			}
		}
	}
	deaf, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := deaf.Pod(map[string]string{AnnotationPrefix +
		"after-restore": `{"app": ["x"]}`}); !errdefs.IsPermissionDenied(err) {
		t.Errorf("error %v", err)
	}
}
