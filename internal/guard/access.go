package guard

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/rights"
)

// access asks whether the pod's user may have open what the processes have. CRIU opens by paths, as root and later
// than the verification has asked: meanwhile somebody else may have put another file there. This looks at the files
// themselves.
type access struct {
	user *rights.User
	root *os.File // of the container's mounts
	// asked are the mounts in which files belong to somebody, by their IDs. All others are the container's own, or the
	// kernel's.
	asked map[int]*mountinfo.Info
	// permitted are the uses of files that are known to be, searchable the directories that he may search.
	permitted, searchable sync.Map
}

// use is for what a process has a file.
type use struct {
	mount    int
	dev, ino uint64
	// modes are the rights that it takes (R_OK and so on); one of them is enough for a program.
	modes   uint32
	program bool
	dir     bool // it is a directory
}

// newAccess returns nil where the pod's user may open everything.
func newAccess(init int, holder *rights.Holder, asked map[int]*mountinfo.Info) (_ *access, err error) {
	if holder == nil {
		return nil, nil
	}
	a := &access{asked: asked}
	if err := inMounts(init, func() (err error) {
		a.root, err = os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
		return err
	}); err != nil {
		return nil, err
	}
	if a.user, err = rights.New(*holder); err != nil {
		a.root.Close()
		return nil, err
	}
	return a, nil
}

func (a *access) close() {
	if a != nil {
		a.user.Close()
		a.root.Close()
	}
}

// modesOf are the rights that it takes to have a file open as a link in /proc is: the link's own mode says how
// (proc_pid_fd(5)).
func modesOf(link string) (modes uint32, err error) {
	var st unix.Stat_t
	if err := unix.Lstat(link, &st); err != nil {
		return 0, &os.PathError{Op: "lstat", Path: link, Err: err}
	}
	if st.Mode&unix.S_IRUSR != 0 {
		modes |= unix.R_OK
	}
	if st.Mode&unix.S_IWUSR != 0 {
		modes |= unix.W_OK
	}
	return modes, nil
}

// may says why the user may not have a file in this way, or nil. link is that of /proc.
func (a *access) may(link string, u use) (denied, err error) {
	if _, known := a.permitted.Load(u); known {
		return nil, nil
	}
	f, err := os.OpenFile(link, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	gone, denied, err := a.reaches(link, u)
	if denied != nil || err != nil {
		return denied, err
	}
	if gone && u.dir {
		return nil, nil // in a directory that was removed there is nothing, and never will be
	}
	if denied = a.mayFile(f, u); denied == nil {
		a.permitted.Store(u, true)
	}
	return denied, nil
}

func (a *access) mayFile(f *os.File, u use) (denied error) {
	readOnly := has(a.asked[u.mount], "ro")
	for _, mode := range []uint32{unix.R_OK, unix.W_OK, unix.X_OK} {
		if u.modes&mode == 0 {
			continue
		}
		err := a.user.May(f, readOnly, mode)
		if err == nil && u.program {
			return nil
		}
		if denied = errors.Join(denied, err); denied != nil && !u.program {
			return denied
		}
	}
	return denied
}

// tries is how often somebody may rename what is above a file while it is looked at.
const tries = 8

// errMoved says that a file is not where the kernel has said that it is.
var errMoved = errors.New("it is moved while it is looked at")

// reaches says whether a file was deleted, and why the user may not search the directories above it, where it is now.
// One that he may not search stays above what is in it, however somebody renames it.
func (a *access) reaches(link string, u use) (deleted bool, denied, err error) {
	for range tries {
		name, err := os.Readlink(link)
		if err != nil {
			return false, nil, err
		}
		name, deleted = present(name)
		if denied = a.walk(name, deleted, u); !errors.Is(denied, errMoved) {
			return deleted, denied, nil
		}
	}
	return deleted, denied, nil
}

// walk searches one directory after the other, each in the one before, so that what is looked at is what is passed.
func (a *access) walk(name string, deleted bool, u use) error {
	dir, rest := a.root, strings.TrimPrefix(path.Clean(name), "/")
	defer func() {
		if dir != a.root {
			dir.Close()
		}
	}()
	for {
		if err := a.search(dir); err != nil {
			return err
		}
		if rest == "" {
			return nil // the root itself, which a process may be in
		}
		var element string
		element, rest, _ = strings.Cut(rest, "/")
		fd, err := unix.Openat2(int(dir.Fd()), element, &unix.OpenHow{
			Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
			Resolve: unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
		})
		if deleted && (rest == "" || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR)) {
			if err == nil {
				unix.Close(fd)
			}
			return nil // nobody finds it any more
		}
		if err != nil {
			return fmt.Errorf("%w: %w", errMoved, err)
		}
		if dir != a.root {
			dir.Close()
		}
		dir = os.NewFile(uintptr(fd), element)
		if rest != "" {
			continue
		}
		at, err := seenAt(dir)
		if err == nil && (at.dev != u.dev || at.ino != u.ino) {
			err = errMoved
		}
		return err
	}
}

// present cuts off what the kernel adds to the name of a file that was deleted.
func present(name string) (cut string, deleted bool) {
	for _, mark := range []string{" (deleted)", "//deleted"} {
		if cut, deleted = strings.CutSuffix(name, mark); deleted {
			return cut, true
		}
	}
	return name, false
}

// search says why the user may not search a directory.
func (a *access) search(dir *os.File) error {
	at, err := seenAt(dir)
	if err != nil {
		return err
	}
	if at.mode&unix.S_IFMT != unix.S_IFDIR {
		return errMoved
	}
	key := use{mount: at.mount, dev: at.dev, ino: at.ino}
	if _, known := a.searchable.Load(key); known {
		return nil
	}
	m := a.asked[at.mount]
	if m == nil {
		return nil // the container's own
	}
	if err := a.user.May(dir, has(m, "ro"), unix.X_OK); err != nil {
		return fmt.Errorf("a directory above it: %w", err)
	}
	a.searchable.Store(key, true)
	return nil
}
