package verify

import (
	"errors"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Capabilities that decide who may open a file.
const (
	capChown         capabilities = 1 << 0
	capDACOverride   capabilities = 1 << 1
	capDACReadSearch capabilities = 1 << 2
	capFOwner        capabilities = 1 << 3
)

// user is a thread of this process that has a container's rights to files and no others, so that the kernel
// itself says what a process of the container may do, access control lists and all.
//
// The kernel has these rights for each thread (setfsuid(2), credentials(7)). The thread is never used
// for anything else: its goroutine never unlocks it, so it ends with it.
type user struct {
	questions chan question
}

type question struct {
	uid    uint32
	fd     int
	mode   uint32
	answer chan error
}

// newUser starts a thread with the user, groups and, of those that are about files, the capabilities.
func newUser(g granted) (*user, error) {
	wasDumpable() // before it changes
	u := &user{questions: make(chan question)}
	started := make(chan error)
	go u.run(g, started)
	if err := <-started; err != nil {
		u.close()
		return nil, err
	}
	return u, nil
}

func (u *user) run(g granted, started chan<- error) {
	runtime.LockOSThread() // and not unlocked
	effective := capSetUID | g.reachable&capDACReadSearch
	current := g.uid
	err := errors.Join(becomeGroups(g.gid, g.groups), becomeUser(current, effective))
	if err != nil {
		err = fmt.Errorf("a thread with the rights of user %d: %w", g.uid, err)
	}
	started <- err
	for q := range u.questions {
		err := error(nil)
		if q.uid != current {
			if err = becomeUser(q.uid, effective); err == nil {
				current = q.uid
			}
		}
		if err == nil {
			err = unix.Faccessat2(q.fd, "", q.mode, unix.AT_EMPTY_PATH|unix.AT_EACCESS)
		}
		q.answer <- err
	}
}

// may asks whether a user with these groups may do this (R_OK and so on) with an open file. Descriptors with
// O_PATH will do.
func (u *user) may(uid uint32, fd int, mode uint32) error {
	q := question{uid: uid, fd: fd, mode: mode, answer: make(chan error)}
	u.questions <- q
	return <-q.answer
}

func (u *user) close() {
	close(u.questions)
	// The kernel takes this back from the process when one of its threads changes its user (commit_creds). What
	// the process does is still root's doing, and a crash of it is to leave a core.
	if wasDumpable() {
		_ = unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	}
}

var wasDumpable = sync.OnceValue(func() bool {
	n, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	return err == nil && n == 1
})

// becomeGroups sets the groups of this thread. (Those of package syscall would set the whole process's.)
func becomeGroups(gid uint32, groups []uint32) error {
	ids := make([]int, len(groups))
	for i := range groups {
		ids[i] = int(groups[i])
	}
	if err := unix.Setgroups(ids); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if _, err := unix.SetfsgidRetGid(int(gid)); err != nil {
		return fmt.Errorf("set group: %w", err)
	}
	if now, _ := unix.SetfsgidRetGid(-1); uint32(now) != gid {
		return fmt.Errorf("set group: it is %d, not %d", now, gid)
	}
	return nil
}

// becomeUser sets the user of this thread for files, then its capabilities: the kernel
// drops or raises those about files together with the user.
func becomeUser(uid uint32, effective capabilities) error {
	if _, err := unix.SetfsuidRetUid(int(uid)); err != nil {
		return fmt.Errorf("set user: %w", err)
	}
	if now, _ := unix.SetfsuidRetUid(-1); uint32(now) != uid {
		return fmt.Errorf("set user: it is %d, not %d", now, uid)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("get capabilities: %w", err)
	}
	for i := range data {
		data[i].Effective = data[i].Permitted & uint32(effective>>(32*i))
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("set capabilities: %w", err)
	}
	return nil
}
