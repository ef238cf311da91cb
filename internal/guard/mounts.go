package guard

import (
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// mountFlags are those that deny something, by their names in mountinfo.
var mountFlags = []struct {
	name string
	flag uint32
}{{"ro", unix.MS_RDONLY}, {"nosuid", unix.MS_NOSUID}, {"nodev", unix.MS_NODEV}, {"noexec", unix.MS_NOEXEC}, {"nosymfollow", unix.MS_NOSYMFOLLOW}}

// expected is what there is to be at a mount.
type expected struct {
	fstype string // of what was made for it, "" for any
	flags  uint32
	shared bool
	slave  bool
}

// lookAtMounts compares the mounts with the spec's. Each has to be there for something, with the flags that it wants.
func (i *inspection) lookAtMounts() error {
	g := &i.facts.Grant
	criu, err := parent() // which sees the node's mounts
	if err != nil {
		return err
	}
	node, err := mountsOf(criu)
	if err != nil {
		return err
	}
	var (
		wanted = map[int]expected{}
		below  = map[string]uint32{} // of cgroup v1, by mount points
		hidden = map[string]bool{}
		bound  = map[string]seen{} // what is there, by destinations
	)
	err = inMounts(i.init, func() error {
		for _, m := range g.Mounts {
			fd, id, err := mountAt(m.Destination)
			if err != nil {
				continue // nothing is there, which grants nothing
			}
			top := os.NewFile(uintptr(fd), m.Destination)
			at, err := seenAt(top)
			top.Close()
			if err != nil {
				return err
			}
			wanted[id], bound[m.Destination] = expected{m.Type, m.Flags, m.Shared, m.Slave}, at
		}
		return i.lookAtHidden(hidden)
	})
	if err != nil {
		return err
	}
	i.lookAtSources(bound)
	for _, m := range g.Mounts {
		for _, is := range i.mounts {
			if _, known := wanted[is.ID]; !known && is.Mountpoint == path.Clean("/"+m.Destination) {
				wanted[is.ID] = expected{m.Type, m.Flags, m.Shared, m.Slave} // below another one
			}
			if m.Below != nil && wanted[is.ID].fstype == m.Type && is.Mountpoint == path.Clean("/"+m.Destination) {
				below[is.Mountpoint+"/"] = *m.Below
			}
		}
	}
	for _, m := range i.mounts {
		i.lookAtMount(m, wanted, below, hidden, node)
	}
	return nil
}

func (i *inspection) lookAtMount(m *mountinfo.Info, wanted map[int]expected, below map[string]uint32, hidden map[string]bool, node []*mountinfo.Info) {
	g := &i.facts.Grant
	w, ok := wanted[m.ID]
	switch {
	case ok:
	case m.Mountpoint == "/":
		w = expected{shared: g.RootShared}
		if g.RootReadonly {
			w.flags = unix.MS_RDONLY
		}
	case m.FSType == "cgroup" && under(below, m.Mountpoint) != nil:
		w = expected{fstype: "cgroup", flags: *under(below, m.Mountpoint)}
	case hidden[m.Mountpoint], hides(m):
		w.fstype = m.FSType
	case g.Terminal && m.Mountpoint == "/dev/console" && m.FSType == "devpts":
		w.fstype = "devpts"
	default:
		i.add(Finding{"mounts", "mount " + m.Mountpoint, "mount point", m.FSType + " " + m.Options, "none"})
		return
	}
	if m.Mountpoint == "/" || ok && (w.fstype == "" || w.fstype == "mqueue") {
		i.owned[m.ID] = m
	}
	if w.fstype != "" && w.fstype != m.FSType {
		i.add(Finding{"mounts", "mount " + m.Mountpoint, "type", m.FSType, w.fstype})
	}
	var lacks []string
	for _, f := range mountFlags {
		if w.flags&f.flag != 0 && !has(m, f.name) {
			lacks = append(lacks, f.name)
		}
	}
	if len(lacks) > 0 {
		i.add(Finding{"mounts", "mount " + m.Mountpoint, "flags", m.Options, strings.Join(lacks, ",")})
	}
	for tag := range strings.FieldsSeq(m.Optional) {
		isNodes := func(o *mountinfo.Info) bool { return slices.Contains(strings.Fields(o.Optional), tag) }
		switch kind, _, _ := strings.Cut(tag, ":"); {
		case kind == "shared" && (!w.shared && !g.RootShared || slices.ContainsFunc(node, isNodes)), kind == "master" && !w.slave:
			i.add(Finding{"mounts", "mount " + m.Mountpoint, "propagation", tag, "private"})
		}
	}
}

// lookAtSources makes sure that what is bound in the container is what the spec says, however the runtime and CRIU
// have named it to each other.
func (i *inspection) lookAtSources(bound map[string]seen) {
	for _, m := range i.facts.Grant.Mounts {
		at, ok := bound[m.Destination]
		if !path.IsAbs(m.Source) || !ok {
			continue
		}
		switch is, err := fileAt(m.Source); {
		case err != nil:
			i.add(Finding{"mounts", "mount " + m.Destination, "source", err.Error(), m.Source})
		case is.dev != at.dev || is.ino != at.ino:
			i.add(Finding{"mounts", "mount " + m.Destination, "source", "another file or directory", m.Source})
		}
	}
}

func under(dirs map[string]uint32, p string) *uint32 {
	for dir, flags := range dirs {
		if strings.HasPrefix(p, dir) {
			return &flags
		}
	}
	return nil
}

// hides reports whether a mount only takes something away: a part of /proc or /sys that is read-only, a file that is /dev/null, an
// empty directory. A checkpoint may have more of them than the spec.
func hides(m *mountinfo.Info) bool {
	if !strings.HasPrefix(m.Mountpoint, "/proc/") && !strings.HasPrefix(m.Mountpoint, "/sys/") || !has(m, "ro") {
		return false
	}
	return m.FSType == "proc" && m.Root != "/" || m.FSType == "sysfs" && m.Root != "/" || m.FSType == "tmpfs" || m.Root == "/null"
}

// lookAtHidden makes sure, in the container's mount namespace, that what the spec hides is hidden, and notes what is mounted there.
func (i *inspection) lookAtHidden(hidden map[string]bool) error {
	g := &i.facts.Grant
	for n, p := range slices.Concat(g.MaskedPaths, g.ReadonlyPaths) {
		masked := n < len(g.MaskedPaths)
		p = path.Clean("/" + p)
		f, err := fileAt(p)
		if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
			continue
		}
		if err != nil {
			return err
		}
		at := slices.IndexFunc(i.mounts, func(m *mountinfo.Info) bool { return m.ID == f.mount })
		if at < 0 {
			return fmt.Errorf("%s is in no mount of the container", p)
		}
		m := i.mounts[at]
		switch {
		case masked && f.null, masked && m.FSType == "tmpfs" && m.Mountpoint == p && has(m, "ro"), !masked && has(m, "ro"):
			hidden[m.Mountpoint] = m.Mountpoint == p
		case masked:
			i.add(Finding{"mounts", "path " + p, "mount", m.FSType + " " + m.Options, "a masked path"})
		default:
			i.add(Finding{"mounts", "path " + p, "flags", m.Options, "ro"})
		}
	}
	return nil
}
