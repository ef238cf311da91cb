package integration

import (
	"bytes"
	"net/http"
	"strings"
	"testing"
)

// TestPullBroken needs a base image from a registry that is broken in several ways. The error names checkpoint and
// image, nothing is left, and when the registry is in order again so is the next try.
func TestPullBroken(t *testing.T) {
	t.Parallel()
	node := newPullNode(t)
	const layerType = "application/octet-stream"
	for name, breakIt := range map[string]func(f *front, part string, content []byte){
		"401 for a layer": func(f *front, part string, _ []byte) {
			f.answer(part, http.StatusUnauthorized, "text/plain",
				nil)
		},
		"500 for a layer": func(f *front, part string, _ []byte) {
			f.answer(part, http.StatusInternalServerError, "text/plain", nil)
		},
		"layer that is not there": func(f *front, part string,
			_ []byte) {
			f.answer(part, http.StatusNotFound, "text/plain", nil)
		},
		"layer that is cut off": func(f *front, part string, content []byte) {
			f.truncate(part, layerType, content[:len(content)/2], len(content))
		},
		"layer with another digest": func(f *front, part string, content []byte) {
			f.answer(part, http.StatusOK, layerType, bytes.Repeat([]byte{7}, len(content)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := node.sub(t)
			img, repository, reference := n.base(t)
			image := n.checkpointOn(t, n.front.ref(repository+":1"), reference)
			part := lastLayer(t, img)
			breakIt(n.front, part, rawLastLayer(t, img))
			pod, c := n.Pod(t), unique("broken")
			_, err := pod.TryCreate(c, image)
			if err == nil {
				t.Fatal("a container of a base image that cannot be pulled")
			}
			for _, word := range []string{image, reference} {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("the error does not name %s: %v", word, err)
				}
			}
			requireNoRestore(t, n.Node)
			n.front.honest(part)
			again := pod.Run(c, image)
			requireContinues(t, again, n.counted)
		})
	}
}
