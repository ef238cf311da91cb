package place

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxLinks is how many links Linux follows (MAXSYMLINKS).
	maxLinks = 40
	// stepBytes is how much of a path is put together in the time of a step.
	stepBytes = 256
)

// errLinks says that links lead to each other.
var errLinks = fmt.Errorf("too many symbolic links: %w", fs.ErrInvalid)

// walker goes along a path, one element at a time, and looks at each once.
type walker struct {
	t *Table
	// nodes are those of the table on the way; nil below all mount points.
	nodes []*node
	// at is the path, without a slash at its end; mounts are the mount points on it.
	at     []byte
	mounts []stop
	dir    *os.File // where it stands, nil if that cannot be looked at
}

// stop is a mount point on the way: how many elements, and how many bytes, the path had there.
type stop struct {
	mount         *Mount
	depth, length int
}

func (t *Table) walk() *walker {
	w := &walker{t: t, nodes: []*node{t.top}}
	w.enterMount(t.top.mount)
	return w
}

// walkFrom is walk that begins at a clean and absolute path that has been gone along before. It cannot go up from there.
func (t *Table) walkFrom(name string) *walker {
	w := &walker{t: t, nodes: []*node{t.top}, mounts: []stop{{t.top.mount, 1, 0}}}
	for rest := Trim(name); rest != ""; {
		var element string
		element, rest, _ = strings.Cut(rest, "/")
		w.at = append(append(w.at, '/'), element...)
		next := w.next(element)
		if w.nodes = append(w.nodes, next); next != nil && next.mount != nil {
			w.mounts = append(w.mounts, stop{next.mount, len(w.nodes), len(w.at)})
		}
	}
	w.reopen()
	return w
}

func (w *walker) close() {
	if w.dir != nil {
		w.dir.Close()
		w.dir = nil
	}
}

func (w *walker) path() string {
	if len(w.at) == 0 {
		return "/"
	}
	return string(w.at)
}

func (w *walker) mount() *Mount { return w.mounts[len(w.mounts)-1].mount }

// rest is the path in the mount.
func (w *walker) rest() []byte {
	return bytes.TrimPrefix(w.at[w.mounts[len(w.mounts)-1].length:], []byte("/"))
}

func (w *walker) next(element string) *node {
	if n := w.nodes[len(w.nodes)-1]; n != nil {
		return n.children[element]
	}
	return nil
}

func (w *walker) enterMount(m *Mount) {
	w.mounts = append(w.mounts, stop{m, len(w.nodes), len(w.at)})
	w.reopen()
}

// reopen opens where it stands.
func (w *walker) reopen() {
	w.close()
	if f, err := w.mount().Find(string(w.rest())); err == nil {
		w.dir = f
	}
}

// down goes to an element, unless it is a link: then it stays, and returns where that leads.
func (w *walker) down(element string) (target string, err error) {
	if err := w.t.step(1); err != nil {
		return "", err
	}
	above, next := len(w.at), w.next(element)
	w.at = append(append(w.at, '/'), element...)
	if next != nil && next.mount != nil {
		w.nodes = append(w.nodes, next)
		w.enterMount(next.mount)
		return "", nil
	}
	if target, err = w.mount().Contents.link(w.rest(), w.t.step); err != nil {
		return "", err
	}
	if w.dir != nil && target == "" {
		f, err := findAt(w.dir, element)
		if err == nil {
			target = readlink(f)
		}
		if target != "" {
			f.Close()
		} else {
			w.close()
			w.dir = f
		}
	}
	if target != "" {
		w.at = w.at[:above]
		return target, nil
	}
	w.nodes = append(w.nodes, next)
	return "", nil
}

// link returns where a link leads that will be in a file system, "" if there is none at the path.
func (c *Contents) link(rest []byte, step func(int) error) (string, error) {
	if c == nil || len(rest) > c.longest {
		return "", nil
	}
	if err := step(len(rest) / stepBytes); err != nil {
		return "", err
	}
	return c.Links[string(rest)], nil
}

// up goes to the directory above.
func (w *walker) up() {
	if len(w.at) == 0 {
		return
	}
	inMount := len(w.nodes) > w.mounts[len(w.mounts)-1].depth
	w.at, w.nodes = w.at[:bytes.LastIndexByte(w.at, '/')], w.nodes[:len(w.nodes)-1]
	if !inMount {
		w.mounts = w.mounts[:len(w.mounts)-1]
		w.reopen()
		return
	}
	if w.dir == nil {
		w.reopen()
		return
	}
	fd, err := unix.Openat(int(w.dir.Fd()), "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	w.close()
	if err == nil {
		w.dir = os.NewFile(uintptr(fd), "..")
	}
}

// Resolve follows a path through all links, as a process in the container would, and returns the clean path where it ends. The error
// says that it leads in circles, or is the table's.
func (t *Table) Resolve(name string) (end string, err error) {
	w := t.walk()
	defer w.close()
	links := 0
	// What is still to go, the next one last.
	todo := [][]string{strings.Split(name, "/")}
	for len(todo) > 0 {
		last := len(todo) - 1
		if len(todo[last]) == 0 {
			todo = todo[:last]
			continue
		}
		element := todo[last][0]
		todo[last] = todo[last][1:]
		if err := t.step(1); err != nil {
			return w.path(), err
		}
		switch element {
		case "", ".":
			continue
		case "..":
			w.up()
			continue
		}
		target, err := w.down(element)
		if err != nil {
			return w.path(), err
		}
		if target == "" {
			continue
		}
		if links++; links > maxLinks {
			return path.Join(w.path(), element), errLinks
		}
		if path.IsAbs(target) {
			w.close()
			w = t.walk()
			defer w.close()
		}
		todo = append(todo, strings.Split(target, "/"))
	}
	return w.path(), nil
}

// Descend calls f for every directory on the way to a clean and absolute path, with what is open there, nil if it cannot be
// looked at. It ends at the first error, which it returns; [ErrLink] at a link. It begins with "/", or, if that is not "", below a directory above
// the path to which there is no link.
func (t *Table) Descend(from, name string, f func(at Place, dir *os.File) error) error {
	w := t.walkFrom(from)
	defer w.close()
	if from == "" {
		if err := f(Place{Mount: w.mount(), Was: w.mount(), Path: "/"}, w.dir); err != nil {
			return err
		}
	}
	below := w.mounts[len(w.mounts)-1].length + 1 // where what is in the mount begins in the path
	for at := len(w.at) + 1; at < len(name); {
		end := at + strings.IndexByte(name[at:], '/')
		if end < at {
			end = len(name)
		}
		mounts := len(w.mounts)
		if target, err := w.down(name[at:end]); err != nil {
			return err
		} else if target != "" {
			return ErrLink
		}
		if len(w.mounts) > mounts {
			below = end + 1
		}
		if err := f(Place{Mount: w.mount(), Was: w.mount(), Path: name[:end], Rest: name[min(below, end):end]}, w.dir); err != nil {
			return err
		}
		at = end + 1
	}
	return nil
}

// Nearest returns the place of a clean and absolute path, or of the nearest directory above it that is there, or that runc makes because
// a mount point is below it. It is looked for by halves. The error is [ErrLink] if a link is on the way, or the table's.
func (t *Table) Nearest(name string) (nearest Place, err error) {
	nearest = t.At("/")
	var ends []int // of the elements
	for i := range len(name) {
		if i > 0 && name[i] == '/' {
			ends = append(ends, i)
		}
	}
	if len(name) > 1 {
		ends = append(ends, len(name))
	}
	sort.Search(len(ends), func(i int) bool {
		at := t.At(name[:ends[i]])
		f, why := at.Find()
		if f != nil {
			f.Close()
		}
		if why != nil && (!errors.Is(why, ErrAbsent) || !t.HasBelow(at.Path)) {
			if !errors.Is(why, ErrAbsent) {
				err = why
			}
			return true
		}
		if len(at.Path) > len(nearest.Path) {
			nearest = at
		}
		return false
	})
	return nearest, err
}

// Link returns the first symbolic link on the way to a clean and absolute path, "" if there is none. What is at the path itself
// counts as well. In the container, paths that CRIU has dumped have none: they are the kernel's.
func (t *Table) Link(name string) string {
	if !t.mayLink(name) {
		return ""
	}
	w := t.walk()
	defer w.close()
	for rest := Trim(name); rest != ""; {
		var element string
		element, rest, _ = strings.Cut(rest, "/")
		if target, err := w.down(element); err != nil {
			return name // nobody may take it for one without links
		} else if target != "" {
			return path.Join(w.path(), element)
		}
	}
	return ""
}

// mayLink asks the kernel about a whole path, a mount at a time.
func (t *Table) mayLink(name string) bool {
	n, mount := t.top, t.top.mount
	start := 0 // in what is below the mount
	rest := Trim(name)
	for at := 0; at <= len(rest); {
		end := at + strings.IndexByte(rest[at:], '/')
		if end < at {
			end = len(rest)
		}
		if n != nil {
			n = n.children[rest[at:end]]
		}
		if n != nil && n.mount != nil {
			// The mount point itself is covered.
			if mount.linked(strings.TrimSuffix(rest[start:at], "/")) {
				return true
			}
			mount, start = n.mount, min(end+1, len(rest))
		}
		at = end + 1
	}
	return mount.linked(rest[start:])
}

// linked says whether there may be a link at a path in the mount, or on the way to it.
func (m *Mount) linked(rest string) bool {
	if rest == "" {
		return false
	}
	if m.Contents != nil && len(m.Contents.Links) > 0 {
		return true
	}
	if m.Base == nil {
		return false
	}
	f, err := m.Find(rest)
	if err != nil {
		return !errors.Is(err, ErrAbsent)
	}
	defer f.Close()
	return readlink(f) != ""
}
