package integration

import (
	"archive/tar"
	"fmt"
	"slices"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/integration/harness"
	"github.com/cri-restore/cri-restore/internal/criu"
)

// TestVerifyMountsNeutralised restores images in which the mounts were edited in ways that the
// restore does not go by.
func TestVerifyMountsNeutralised(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newGrant(t, n, harness.Mount(t.TempDir(), "/mnt/ro", true), harness.ReadonlyRootfs(), kubeletPaths())
	ordinary := g.pod.Run("ordinary", n.Image(harness.Busybox),
		append([]harness.ContainerOpt{harness.Counting()}, g.opts...)...)
	for name, change := range map[string]func([]*mnt.MntEntry) []*mnt.MntEntry{
		"writable": func(all []*mnt.MntEntry) []*mnt.MntEntry {
			for _, m := range all {
				m.Flags, m.SbFlags = proto.Uint32(m.GetFlags()&^unix.MS_RDONLY), proto.Uint32(0)
			}
			return all
		},
		// CRIU would bind the volume to the message queues, writable.
		"volume as another file system": func(all []*mnt.MntEntry) []*mnt.MntEntry {
			return at("/mnt/ro", func(v *mnt.MntEntry) {
				at("/dev/mqueue", func(m *mnt.MntEntry) { m.RootDev, m.Source, m.Options = v.RootDev, v.Source, v.Options })(all)
				v.Root = proto.String("/")
			})(all)
		},
		"options": at("/dev", func(m *mnt.MntEntry) {
			m.Options, m.Source = proto.String("size=100%,mode=777"), proto.String("/dev/vda")
		}),
		"shared with the host": func(all []*mnt.MntEntry) []*mnt.MntEntry {
			for _, m := range all {
				m.MasterId, m.SharedId = proto.Uint32(1), proto.Uint32(2)
			}
			return all
		},
		"nothing hidden": func(all []*mnt.MntEntry) []*mnt.MntEntry {
			return slices.DeleteFunc(all, func(m *mnt.MntEntry) bool {
				return slices.Contains(maskedPaths, m.GetMountpoint()) || slices.Contains(readonlyPaths, m.GetMountpoint())
			})
		},
		"hidden under another name": at("/proc/keys", func(m *mnt.MntEntry) { m.Root = proto.String("/../../etc/shadow") }),
		"hidden by what it shows": at("/proc/keys", func(m *mnt.MntEntry) {
			m.Root, m.Source = proto.String("/keys"),
				proto.String("proc")
		}),
	} {
		t.Run(name, func(t *testing.T) {
			archive := editImages(t, g.archive, func(e *imageEditor) {
				e.Mounts(change)
				for _, image := range e.matching("tmpfs-dev-*") { // that of a masked directory goes with its mounts
					if name == "nothing hidden" && !usedBy(t, e, image) {
						e.Remove(image)
					}
				}
			})
			g.accepts(t, archive, func(c *harness.Container) {
				sameMounts(t, c, ordinary)
				if got, want := c.Exec("stat", "-f", "-c", "%b %S", "/dev"),
					ordinary.Exec("stat", "-f", "-c", "%b %S", "/dev"); got != want {
					t.Errorf("/dev has %q blocks, want %q", got, want)
				}
			})
		})
	}
}

func usedBy(t *testing.T, e *imageEditor, image string) bool {
	t.Helper()
	all, err := criu.Entries[*mnt.MntEntry](e.Images(), e.Name("mountpoints-*.img"), "MNTS")
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(all, func(m *mnt.MntEntry) bool {
		return image == fmt.Sprintf("tmpfs-dev-%d.tar.gz.img",
			m.GetRootDev())
	})
}

// TestVerifyMountsThroughLinks restores volumes that are mounted where a link of the image leads, as /var/run does.
func TestVerifyMountsThroughLinks(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	busybox, err := harness.BusyboxImage()
	if err != nil {
		t.Fatal(err)
	}
	n.Registry().Push("linked:1", withLayer(t, busybox,
		packed(t, []tarEntry{dirEntry("real"), specialEntry(tar.TypeSymlink, "linked", "real")})))
	image := n.Image("linked:1")
	n.Pull(image)
	one, two := t.TempDir(), t.TempDir()
	for _, c := range []struct {
		name    string
		was, is []harness.ContainerOpt
	}{
		{"one", []harness.ContainerOpt{harness.Mount(one, "/linked/one", true)}, nil},
		{"closed", []harness.ContainerOpt{harness.Mount(one, "/linked/one", false)},
			[]harness.ContainerOpt{harness.Mount(one, "/linked/one", true)}},
		{"two", []harness.ContainerOpt{harness.Mount(one, "/linked/one", true), harness.Mount(two, "/linked/two", false)},
			nil},
		{"one more", []harness.ContainerOpt{harness.Mount(one, "/linked/one", true)},
			[]harness.ContainerOpt{harness.Mount(two, "/linked/two", false), harness.Mount(one, "/linked/one", true)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := n.In(t)
			if c.is == nil {
				c.is = c.was
			}
			pod := n.Pod(t)
			old := pod.Run("counter", image, append([]harness.ContainerOpt{harness.Counting()}, c.was...)...)
			counted := old.WaitCount(5)
			archive := checkpointOf(t, old)
			pod.Remove()
			pod = n.Pod(t)
			restored := pod.Run("restored", archive, c.is...)
			requireContinues(t, restored, counted)
			sameMounts(t, restored, pod.Run("ordinary", image, append([]harness.ContainerOpt{harness.Counting()}, c.is...)...))
			requireReadonly(t, restored, "/real/one", true)
		})
	}
}
