package guard

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// release has links followed again in the container's mounts, except in those in which the pod does not want it. CRIU opens
// nothing there any more.
func (g *guard) release() error {
	var keep []int
	if err := inMounts(g.init, func() (err error) {
		if keep, err = g.releaseMounts(); err != nil {
			return fmt.Errorf("flags of the container's mounts: %w", err)
		}
		return nil
	}); err != nil {
		return err
	}
	mounts, err := mountsOf(g.init)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if has(m, "nosymfollow") != slices.Contains(keep, m.ID) {
			return fmt.Errorf("mount %.200q has the flags %s, with nosymfollow or without it: %w", m.Mountpoint, m.Options, errdefs.ErrFailedPrecondition)
		}
	}
	g.verdict.Released = true
	return g.leave()
}

// releaseMounts returns the IDs of those that keep the flag.
func (g *guard) releaseMounts() (keep []int, err error) {
	root, _, err := mountAt("/")
	if err != nil {
		return nil, err
	}
	defer unix.Close(root)
	if err := setFlags(root, 0, unix.MOUNT_ATTR_NOSYMFOLLOW, unix.AT_RECURSIVE); err != nil {
		return nil, err
	}
	var fds []int
	defer func() {
		for _, fd := range fds {
			unix.Close(fd)
		}
	}()
	// All are found first, as where they are may lead through links in one of them.
	for _, m := range g.facts.Grant.Mounts {
		if m.Flags&unix.MS_NOSYMFOLLOW == 0 {
			continue
		}
		fd, id, err := mountAt(m.Destination)
		if err != nil {
			return nil, fmt.Errorf("volume %.200q: %w", m.Destination, err)
		}
		fds, keep = append(fds, fd), append(keep, id)
	}
	for _, fd := range fds {
		if err := setFlags(fd, unix.MOUNT_ATTR_NOSYMFOLLOW, 0, 0); err != nil {
			return nil, err
		}
	}
	return keep, nil
}

// unsupported explains why the kernel cannot do this.
func unsupported(err error) error {
	why := "it knows no nosymfollow"
	if err != nil {
		why = strings.ToLower(err.Error())
	}
	return fmt.Errorf("the kernel cannot keep CRIU from following links (mount_setattr: %s): Linux 5.14 or newer is needed: %w", why, errdefs.ErrNotImplemented)
}
