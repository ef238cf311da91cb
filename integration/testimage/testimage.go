// Package testimage builds the container image that the tests and the demo run: a
// busybox and nothing else, so that no image registry is needed. The same busybox
// and the same options give the same digests, on every machine.
package testimage

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// UID is the user and group id of the user "app", for containers that are not root.
const UID = 1000

// DataFiles are the files below /data, each with its own path and a newline as its
// content: one for a test to change, one to delete, and one to leave alone.
var DataFiles = []string{"/data/change-me", "/data/delete-me", "/data/keep-me"}

// Path is the PATH of the image's environment. All applets are in /bin.
const Path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Options change what New builds. The zero value is the plain image.
type Options struct {
	// Busybox is the file name of a statically linked busybox. Empty means the
	// one on PATH.
	Busybox string
	// Files are further files, absolute path to content; they belong to root and
	// have mode 0644.
	Files map[string]string
	// Env is appended to the environment, "NAME=value" each.
	Env []string
	// Cmd is what a container without a command runs. Empty means /bin/sh.
	Cmd []string
	// User is the user that a container without one runs as. Empty means root.
	User string
}

// New builds the image: busybox, a link in /bin for each of its applets, the users
// root and app, /tmp for everybody, and DataFiles. It fails when there is no static
// busybox.
func New(ctx context.Context, opts Options) (v1.Image, error) {
	if opts.Busybox == "" {
		found, err := exec.LookPath("busybox")
		if err != nil {
			return nil, fmt.Errorf("busybox: %w: install the package busybox-static (make deps does)", err)
		}
		opts.Busybox = found
	}
	if err := requireStatic(opts.Busybox); err != nil {
		return nil, err
	}
	applets, err := listApplets(ctx, opts.Busybox)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return rootFS(opts, applets) }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, fmt.Errorf("layer of the busybox image: %w", err)
	}

	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	epoch := v1.Time{Time: time.Unix(0, 0).UTC()}
	image, err := mutate.Append(base, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: epoch, CreatedBy: "cri-restore testimage"},
	})
	if err != nil {
		return nil, fmt.Errorf("add the layer to the busybox image: %w", err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("configuration of the busybox image: %w", err)
	}
	file = file.DeepCopy()
	file.Created, file.OS, file.Architecture = epoch, "linux", runtime.GOARCH
	file.Config = v1.Config{
		Env:  append([]string{"PATH=" + Path}, opts.Env...),
		Cmd:  opts.Cmd,
		User: opts.User,
	}
	if len(file.Config.Cmd) == 0 {
		file.Config.Cmd = []string{"/bin/sh"}
	}
	return mutate.ConfigFile(image, file)
}
