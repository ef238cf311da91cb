package dump

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// A mount point leads, by links that the container has made, to where it cannot be named, or to an honest place.
func TestCheckMountPoints(t *testing.T) {
	for name, c := range map[string]struct {
		links map[string]string
		spec  specs.Spec
		says  string
	}{
		"no links":              {nil, specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Type: "bind"}}}, ""},
		"honest link":           {map[string]string{"data": "real/elsewhere"}, specs.Spec{Mounts: []specs.Mount{{Destination: "/data/x", Type: "bind"}}}, ""},
		"out of it":             {map[string]string{"data": "../../../../x"}, specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Type: "bind"}}}, ""},
		"another mount":         {map[string]string{"data": "/real]:/etc"}, specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Type: "tmpfs"}}}, ""},
		"the CVE":               {map[string]string{"data": "/real]:/etc"}, specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Type: "bind"}}}, `mount point "/data"`},
		"by options":            {map[string]string{"data": "/a:b"}, specs.Spec{Mounts: []specs.Mount{{Destination: "/data/x", Options: []string{"rbind"}}}}, `mount point "/data/x"`},
		"backslash":             {map[string]string{"data": `/a\b`}, specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Type: "bind"}}}, "backslash"},
		"newline":               {map[string]string{"data": "/a\nb"}, specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Type: "bind"}}}, "newline"},
		"nothing":               {map[string]string{"data": "/"}, specs.Spec{Mounts: []specs.Mount{{Destination: "/data", Type: "bind"}}}, "root of the container"},
		"device":                {map[string]string{"dev": "/x]"}, specs.Spec{Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/fuse"}}}}, "/dev/fuse"},
		"a colon of the node's": {nil, specs.Spec{Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/bsg/0:0:0:0"}}}}, ""},
		"a colon by a link":     {map[string]string{"dev": "/a:b"}, specs.Spec{Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/fuse"}}}}, "/dev/fuse"},
		"a bracket of the node": {nil, specs.Spec{Linux: &specs.Linux{Devices: []specs.LinuxDevice{{Path: "/dev/a]:/etc"}}}}, "/dev/a]"},
		"a volume with a colon": {nil, specs.Spec{Mounts: []specs.Mount{{Destination: "/a:b", Type: "bind"}}}, "/a:b"},
		"mask":                  {map[string]string{"m": "/x]"}, specs.Spec{Linux: &specs.Linux{MaskedPaths: []string{"/m"}}}, `"/m"`},
	} {
		t.Run(name, func(t *testing.T) {
			rootfs := t.TempDir()
			for link, target := range c.links {
				if err := os.Symlink(target, filepath.Join(rootfs, link)); err != nil {
					t.Fatal(err)
				}
			}
			spec, err := json.Marshal(&c.spec)
			if err != nil {
				t.Fatal(err)
			}
			err = checkMountPoints(&containers.Container{ID: "c", Spec: &anypb.Any{Value: spec}}, rootfs)
			if c.says == "" && err != nil || c.says != "" && (!errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), c.says)) {
				t.Errorf("error %v", err)
			}
		})
	}
}
