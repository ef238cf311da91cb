package testimage

import (
	"fmt"
	"runtime"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// The annotation that containerd's import takes an image's name from
// (core/images/annotations.go).
const imageName = "io.containerd.image.name"

// WriteLayout writes an image as an OCI image layout into a folder, which is made
// if need be. name is the reference that an import into containerd gives it; empty
// leaves it without one.
func WriteLayout(image v1.Image, dir, name string) error {
	opts := []layout.Option{layout.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH})}
	if name != "" {
		opts = append(opts, layout.WithAnnotations(map[string]string{imageName: name}))
	}
	path, err := layout.Write(dir, empty.Index)
	if err == nil {
		err = path.AppendImage(image, opts...)
	}
	if err != nil {
		return fmt.Errorf("image layout %s: %w", dir, err)
	}
	return nil
}
