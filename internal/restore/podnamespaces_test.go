package restore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
)

// TestKeepPodNamespaces covers the images of an archive and of a view: what CRIU would
// write into the pod's namespaces is what is there already.
func TestKeepPodNamespaces(t *testing.T) {
	host, err := os.Hostname()
	check(t, err)
	c := func(namespaces string) *containers.Container {
		return &containers.Container{ID: "c1", Spec: raw("spec",
			[]byte(`{"linux":{"namespaces":[{"type":"mount"},{"type":"network","path":"/proc/self/ns/net"}`+namespaces+`]}}`))}
	}
	const joined = `,{"type":"uts","path":"/proc/self/ns/uts"},{"type":"ipc","path":"/proc/self/ns/ipc"}`
	dumped := map[string]string{"utsns-9.img": "dumped name", "ipcns-var-10.img": "dumped limits",
		"ipcns-shm-10.img": "dumped objects", "netns-1.img": "dumped net"}

	for name, images := range map[string]func(w *world, r *Record) string{
		"archive": func(w *world, r *Record) string { return filepath.Join(w.store.Dirs.Archive(r.ID), "checkpoint") },
		"view": func(w *world, r *Record) string {
			source := filepath.Join(t.TempDir(), "source")
			check(t, os.MkdirAll(filepath.Join(source, "checkpoint"), 0o755))
			write(t, filepath.Join(source, "checkpoint"), dumped)
			view := mkdir(t, w.store.Dirs.View(r.ID))
			bind(t, source, view)
			return filepath.Join(view, "checkpoint")
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := &Record{ID: NewID()}
			check(t, w.store.Dirs.Make(r.ID))
			dir := images(w, r)
			if name == "archive" {
				write(t, dir, dumped)
			}
			before := len(mountsBelow(t, w.store.Dirs.Root)) + len(mountsBelow(t, w.store.Dirs.State))

			// Of namespaces of its own nothing is covered.
			check(t, w.store.KeepPodNamespaces(c(`,{"type":"uts"},{"type":"ipc"}`), r, dir))
			if got := len(mountsBelow(t, w.store.Dirs.Root)) + len(mountsBelow(t, w.store.Dirs.State)); got != before {
				t.Errorf("%d mounts, want %d", got, before)
			}
			for range 2 { // a second start of containerd does it again
				check(t, w.store.KeepPodNamespaces(c(joined), r, dir))
				if got := len(mountsBelow(t, w.store.Dirs.Root)) + len(mountsBelow(t, w.store.Dirs.State)); got != before+2 {
					t.Errorf("%d mounts, want %d", got, before+2)
				}
			}
			for file, was := range dumped {
				data, err := os.ReadFile(filepath.Join(dir, file))
				check(t, err)
				covered := strings.HasPrefix(file, "utsns-") || strings.HasPrefix(file, "ipcns-var-")
				if (string(data) == was) == covered {
					t.Errorf("%s is %q", file, data)
				}
				if strings.HasPrefix(file, "utsns-") && !strings.Contains(string(data), host) {
					t.Errorf("%s does not have %q: %q", file, host, data)
				}
			}
			check(t, w.store.Remove(w.ctx, r))
			noMounts(t, w.store.Dirs.Root)
			noMounts(t, w.store.Dirs.State)
		})
	}
}

func TestKeepPodNamespacesFails(t *testing.T) {
	w := newWorld(t)
	r := &Record{ID: NewID()}
	check(t, w.store.Dirs.Make(r.ID))
	spec := func(value string) *containers.Container {
		return &containers.Container{ID: "c1", Spec: raw("spec", []byte(value))}
	}
	gone := spec(`{"linux":{"namespaces":[{"type":"uts","path":"/proc/self/ns/gone"}]}}`)
	for says, err := range map[string]error{
		"OCI spec of container c1":  w.store.KeepPodNamespaces(spec("{"), r, t.TempDir()),
		"uts namespace of the pod":  w.store.KeepPodNamespaces(gone, r, t.TempDir()),
		"no such file or directory": w.store.KeepPodNamespaces(gone, r, "/no/such/directory"),
	} {
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("got %v, want an error that says %q", err, says)
		}
	}
	check(t, w.store.KeepPodNamespaces(spec(`{}`), r, "/no/such/directory")) // nothing to keep
}
