package cgroup

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// nodeOptions are those of cgroup v2 on this node.
var nodeOptions = options{read: readOptions, write: writeOptions}

// KeepOptions calls f and gives cgroup v2 the mount options back that it had before. They are the whole node's, and
// CRIU takes them away whenever it reads the cgroups of what it dumps: it makes a mount of its own, without any
// (criu/cgroup.c, open_cgroupfs), and a mount from the node's cgroup namespace sets them for all (Linux:
// kernel/cgroup/cgroup.c, apply_cgroup_root_flags). Without nsdelegate a container that may write its cgroup may lift
// its own limits; without memory_recursiveprot memory of pods is not protected.
//
// f's error is apart from lost, which says that the options could not be given back.
func KeepOptions(f func() error) (err, lost error) { return nodeOptions.keep(f) }

// options keep what is set while somebody may change it.
type options struct {
	read  func() (mount string, set []string, err error)
	write func(mount string, set []string) error

	mu    sync.Mutex
	users int
	// What was set before the first of the users came; what the others find may be their neighbours' doing.
	mount string
	set   []string
}

func (o *options) keep(f func() error) (err, lost error) {
	if lost = o.enter(); lost != nil {
		return f(), lost
	}
	defer func() { lost = o.leave() }()
	return f(), nil
}

func (o *options) enter() (err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.users == 0 {
		if o.mount, o.set, err = o.read(); err != nil {
			return err
		}
	}
	o.users++
	return nil
}

func (o *options) leave() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.users--
	if o.mount == "" {
		return nil
	}
	_, now, err := o.read()
	if err != nil || slices.Equal(now, o.set) {
		return err
	}
	return o.write(o.mount, o.set)
}

// readOptions returns where cgroup v2 is mounted and its options without "rw", or nothing if it is not mounted.
func readOptions() (mount string, set []string, err error) {
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup2"))
	if err != nil {
		return "", nil, fmt.Errorf("mount of cgroup v2: %w", err)
	}
	if len(mounts) == 0 {
		return "", nil, nil
	}
	for o := range strings.SplitSeq(mounts[0].VFSOptions, ",") {
		if o != "rw" && o != "ro" {
			set = append(set, o)
		}
	}
	return mounts[0].Mountpoint, set, nil
}

// writeOptions sets the options of cgroup v2, and leaves those of the mount alone (nosuid, for one).
func writeOptions(mount string, set []string) (err error) {
	fd, err := unix.Fspick(unix.AT_FDCWD, mount, unix.FSPICK_CLOEXEC|unix.FSPICK_NO_AUTOMOUNT)
	if err != nil {
		return fmt.Errorf("options of %s: %w", mount, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	for _, o := range set {
		if err := unix.FsconfigSetFlag(fd, o); err != nil {
			return fmt.Errorf("option %s of %s: %w", o, mount, err)
		}
	}
	if err := unix.FsconfigReconfigure(fd); err != nil {
		return fmt.Errorf("options %s of %s: %w", strings.Join(set, ","), mount, err)
	}
	return nil
}
