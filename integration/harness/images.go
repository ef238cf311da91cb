package harness

import (
	"context"
	"fmt"
	"sync"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/cri-restore/cri-restore/integration/testimage"
)

// Images that every registry of the harness has; Node.Image gives the full reference.
const (
	// Busybox is testimage's plain image.
	Busybox = "busybox:1"
	// PauseImage is the sandboxes' image.
	PauseImage = "pause:1"
)

// pauseScript sleeps for ever and, as the first process of a shared PID
// namespace, reaps what is left to it.
const pauseScript = `trap 'exit 0' TERM INT; while :; do sleep 86400 & wait $!; done`

var testImages = sync.OnceValues(func() (map[string]v1.Image, error) {
	specs := map[string]testimage.Options{
		Busybox: {},
		// The file gives it a layer of its own: a test that removes Busybox must
		// not find its layer kept by the sandbox image.
		PauseImage: {
			Cmd:   []string{"/bin/sh", "-c", pauseScript},
			Files: map[string]string{"/etc/pause": "sandbox image of the tests\n"},
		},
	}
	images := map[string]v1.Image{}
	for name, spec := range specs {
		image, err := testimage.New(context.Background(), spec)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		images[name] = image
	}
	return images, nil
})

// BusyboxImage is the image that Busybox names.
func BusyboxImage() (v1.Image, error) {
	images, err := testImages()
	if err != nil {
		return nil, err
	}
	return images[Busybox], nil
}
