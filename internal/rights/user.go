// Package rights asks the kernel what a user of a container may do with a file, whoever has opened it for him.
package rights

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"
)

// Capabilities that the thread has, by their numbers (linux/capability.h).
const (
	capDACReadSearch = 1 << 2
	capSetUID        = 1 << 7
)

// ErrLink says that what was to be opened is a symbolic link.
var ErrLink = errors.New("a symbolic link")

// Holder is whose rights they are: the user of a container, with those of his capabilities that are about files. Who has
// CAP_DAC_OVERRIDE need not be asked about.
type Holder struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups,omitempty"`
	// ReadSearch is CAP_DAC_READ_SEARCH: he may read everything.
	ReadSearch bool `json:"readSearch,omitempty"`
	// AnyUser is CAP_SETUID: he can be whom a file belongs to.
	AnyUser bool `json:"anyUser,omitempty"`
	// AnyOwner is CAP_FOWNER or CAP_CHOWN: he can change the mode of every file.
	AnyOwner bool `json:"anyOwner,omitempty"`
}

// User is a thread of this process that has a container's rights to files and no others, so that the kernel
// itself says what a process of the container may do, access control lists and all.
//
// The kernel has these rights for each thread (setfsuid(2), credentials(7)). The thread is never used
// for anything else: its goroutine never unlocks it, so it ends with it.
type User struct {
	holder    Holder
	questions chan question
}

type question struct {
	uid    uint32
	fd     int
	mode   uint32
	answer chan error
}

// New starts a thread with the user, groups and, of those that are about files, the capabilities.
func New(h Holder) (*User, error) {
	wasDumpable() // before it changes
	u := &User{holder: h, questions: make(chan question)}
	started := make(chan error)
	go u.start(h, started)
	if err := <-started; err != nil {
		u.Close()
		return nil, err
	}
	return u, nil
}

// start finds a thread. The first one of the process is none to take: it never ends, and what it is counts as what the process is (proc(5)).
func (u *User) start(h Holder, started chan<- error) {
	runtime.LockOSThread() // and not unlocked
	if unix.Gettid() != unix.Getpid() {
		u.run(h, started)
		return
	}
	other := make(chan struct{})
	go func() {
		runtime.LockOSThread()
		close(other)
		u.run(h, started)
	}()
	<-other // while this one is taken
	runtime.UnlockOSThread()
}

func (u *User) run(h Holder, started chan<- error) {
	effective := uint64(capSetUID)
	if h.ReadSearch {
		effective |= capDACReadSearch
	}
	current := h.UID
	err := errors.Join(becomeGroups(h.GID, h.Groups), becomeUser(current, effective))
	if err != nil {
		err = fmt.Errorf("a thread with the rights of user %d: %w", h.UID, err)
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

// May says why the user may not do this (R_OK and so on) with an open file, or nil. Descriptors with O_PATH will do. The kernel is
// asked, and what he could change to be allowed counts as allowed, unless the file is in a read-only mount: it may have
// been open since before its owner took the right away.
func (u *User) May(f *os.File, readOnly bool, mode uint32) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK && mode != 0 {
		return ErrLink
	}
	users := []uint32{u.holder.UID}
	if u.holder.AnyUser && st.Uid != u.holder.UID {
		users = append(users, st.Uid)
	}
	var err error
	for _, uid := range users {
		// A file system that nobody can write to is no matter of rights.
		if err = u.may(uid, int(f.Fd()), mode); err == nil || errors.Is(err, unix.EROFS) {
			return nil
		}
		if owner := st.Uid == uid || u.holder.AnyOwner; owner && errors.Is(err, unix.EACCES) && !readOnly {
			return nil
		}
	}
	if !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) {
		return err
	}
	return fmt.Errorf("owner %d:%d, mode %#o: %w", st.Uid, st.Gid, st.Mode&0o7777, fs.ErrPermission)
}

// may asks the thread whether a user with these groups may do this (R_OK and so on) with an open file. Descriptors with
// O_PATH will do.
func (u *User) may(uid uint32, fd int, mode uint32) error {
	q := question{uid: uid, fd: fd, mode: mode, answer: make(chan error)}
	u.questions <- q
	return <-q.answer
}

// Close ends the thread.
func (u *User) Close() {
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
func becomeUser(uid uint32, effective uint64) error {
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
