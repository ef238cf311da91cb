package verify

import (
	"fmt"
	"path"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// wantedMount is what the spec has at a path.
type wantedMount struct {
	path string
	kind mountKind // volume or fresh
	// The file system that CRIU is to make, if it is a fresh one.
	fstype       mnt.Fstype
	source, data string
	// With these flags, and with mounts that appear in it from the source, or below it for others.
	flags, super              uint32
	slave, shared, unbindable bool
	// controllers are the flags of runc's bind mounts below a cgroup v1 mount; nil: it is none.
	controllers *uint32
	found       bool
}

func (w *wantedMount) String() string {
	if w.kind == volume {
		return fmt.Sprintf("a bind mount at %s (%s)", w.path, flagNames(w.flags))
	}
	return fmt.Sprintf("%s at %s (%s)", fstypeName(w.fstype), w.path, flagNames(w.flags))
}

func fstypeName(t mnt.Fstype) string { return strings.ToLower(t.String()) }

// freshTypes are the file systems of a spec that show a container no more than its namespaces.
// What is made of a device, an image or a directory of the node is not among them.
var freshTypes = map[string]mnt.Fstype{
	"proc": mnt.Fstype_PROC, "sysfs": mnt.Fstype_SYSFS, "tmpfs": mnt.Fstype_TMPFS, "devpts": mnt.Fstype_DEVPTS, "mqueue": mnt.Fstype_MQUEUE,
}

// The node, which tests replace.
var (
	statfsNode  = unix.Statfs
	unifiedNode = func() bool { return isUnified("/sys/fs/cgroup") }
)

func isUnified(dir string) bool {
	var st unix.Statfs_t
	return statfsNode(dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

// wantedMounts returns the spec's mounts by the path to which links of the image lead, /var/run for one: that is where
// runc has them (criu_linux.go, addCriuRestoreMount). It refuses those that cannot be judged.
func (v *verifier) wantedMounts(root *place.Mount) (map[string]*wantedMount, error) {
	alone, err := place.New([]*place.Mount{root}, v.step)
	if err != nil {
		return nil, err
	}
	out := map[string]*wantedMount{}
	for _, m := range v.spec.Mounts {
		dst, err := alone.Resolve(path.Clean("/" + m.Destination))
		if v.over != nil {
			return nil, v.over
		}
		if why := place.MountPoint(dst); err == nil && why != nil {
			v.refuse(Finding{Check: "mounts", Object: "mount " + m.Destination, Field: "mount point", Found: dst, Allowed: "a path that can be mounted at", Remedy: why.Error(), Always: true})
			continue
		}
		var w *wantedMount
		if err == nil {
			w, err = v.wantedMount(path.Clean("/"+m.Destination), m)
		}
		if err == nil && out[dst] != nil {
			err = fmt.Errorf("the pod has two mounts there, one of which hides the other")
		}
		if err != nil {
			v.refuse(Finding{Check: "mounts", Object: "mount " + dst, Field: "type", Found: "type " + m.Type + " in the pod", Allowed: "a mount that CRIU can restore", Remedy: err.Error()})
			continue
		}
		out[dst] = w
	}
	return out, nil
}

func (v *verifier) wantedMount(dst string, m specs.Mount) (*wantedMount, error) {
	o := parseOptions(m)
	if o.idmapped {
		return nil, fmt.Errorf("it is mapped to other users, which CRIU cannot restore")
	}
	w := &wantedMount{
		path: dst, source: m.Source, data: strings.Join(o.data, ","), flags: o.set & grantFlags, super: o.set & superFlags,
		slave: o.propagation == unix.MS_SLAVE, shared: o.propagation == unix.MS_SHARED, unbindable: o.propagation == unix.MS_UNBINDABLE,
	}
	fstype, isFresh := freshTypes[m.Type]
	switch {
	case o.bind:
		w.kind = volume
		if o.set|o.cleared == 0 {
			// runc leaves the source's flags (runc: rootfs_linux.go, mountToRootfs).
			var st unix.Statfs_t
			if err := statfsNode(m.Source, &st); err != nil {
				return nil, fmt.Errorf("its source cannot be examined: %w", err)
			}
			w.flags = uint32(st.Flags) & (unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC)
		}
	case isFresh:
		w.kind, w.fstype = fresh, fstype
		if label := v.spec.Linux.MountLabel; label != "" && (fstype == mnt.Fstype_TMPFS || fstype == mnt.Fstype_DEVPTS) {
			w.data = withLabel(w.data, label)
		}
	case m.Type == "cgroup" && unifiedNode():
		w.kind, w.fstype = fresh, mnt.Fstype_CGROUP2
	case m.Type == "cgroup" && modeOf(v.spec, specs.CgroupNamespace) == host:
		// runc makes a tmpfs and binds the controllers into it (runc: rootfs_linux.go, mountCgroupV1).
		flags := w.flags
		w.kind, w.fstype, w.source, w.data, w.controllers = fresh, mnt.Fstype_TMPFS, "tmpfs", "mode=755", &flags
		w.flags, w.super = unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, 0
		if label := v.spec.Linux.MountLabel; label != "" {
			w.data = withLabel(w.data, label)
		}
	default:
		return nil, fmt.Errorf("no container with a mount of this type can be restored")
	}
	return w, nil
}

// withLabel adds a SELinux label as runc does.
func withLabel(data, label string) string {
	label = fmt.Sprintf("context=%q", label)
	if data == "" {
		return label
	}
	return data + "," + label
}
