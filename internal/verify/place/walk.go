package place

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many links Linux follows (MAXSYMLINKS).
const maxLinks = 40

// errLinks says that links lead to each other.
var errLinks = fmt.Errorf("too many symbolic links: %w", fs.ErrInvalid)

// walker goes along a path, one element at a time, and looks at each once.
type walker struct {
	t *Table
	// nodes are those of the table on the way; nil below all mount points.
	nodes []*node
	// at are the elements of the path, mounts how many of them there were at each mount point on it.
	at     []string
	mounts []stop
	dir    *os.File // where it stands, nil if that cannot be looked at
}

type stop struct {
	mount *Mount
	depth int
}

func (t *Table) walk() *walker {
	w := &walker{t: t, nodes: []*node{t.top}}
	w.enterMount(t.top.mount)
	return w
}

func (w *walker) close() {
	if w.dir != nil {
		w.dir.Close()
		w.dir = nil
	}
}

func (w *walker) path() string { return "/" + strings.Join(w.at, "/") }

func (w *walker) mount() *Mount { return w.mounts[len(w.mounts)-1].mount }

func (w *walker) rest() string { return strings.Join(w.at[w.mounts[len(w.mounts)-1].depth:], "/") }

func (w *walker) enterMount(m *Mount) {
	w.close()
	w.mounts = append(w.mounts, stop{m, len(w.at)})
	w.reopen()
}

// reopen opens where it stands.
func (w *walker) reopen() {
	w.close()
	if f, err := w.mount().Find(w.rest()); err == nil {
		w.dir = f
	}
}

// down goes to an element, unless it is a link: then it stays, and returns where that leads.
func (w *walker) down(element string) (target string) {
	var next *node
	if n := w.nodes[len(w.nodes)-1]; n != nil {
		next = n.children[element]
	}
	if next != nil && next.mount != nil {
		w.at, w.nodes = append(w.at, element), append(w.nodes, next)
		w.enterMount(next.mount)
		return ""
	}
	if c := w.mount().Contents; c != nil {
		rest := element
		if r := w.rest(); r != "" {
			rest = r + "/" + element
		}
		if target = c.Links[rest]; target != "" {
			return target
		}
	}
	if w.dir != nil {
		f, err := findAt(w.dir, element)
		if err == nil {
			if target = readlink(f); target != "" {
				f.Close()
				return target
			}
		}
		w.close()
		w.dir = f
	}
	w.at, w.nodes = append(w.at, element), append(w.nodes, next)
	return ""
}

// up goes to the directory above.
func (w *walker) up() {
	if len(w.at) == 0 {
		return
	}
	inMount := len(w.at) > w.mounts[len(w.mounts)-1].depth
	w.at, w.nodes = w.at[:len(w.at)-1], w.nodes[:len(w.nodes)-1]
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

// Resolve follows a path through all links, as a process in the container would, and returns the clean path where it ends. Step
// is called for every element. The error says that it leads in circles, or is step's.
func (t *Table) Resolve(name string, step func(n int) error) (end string, err error) {
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
		if err := step(1); err != nil {
			return w.path(), err
		}
		switch element {
		case "", ".":
			continue
		case "..":
			w.up()
			continue
		}
		target := w.down(element)
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

// Descend calls f for "/" and for every directory on the way to a clean and absolute path, with what is open there, nil if it cannot be
// looked at. It ends at the first error, which it returns; [ErrLink] at a link.
func (t *Table) Descend(name string, f func(at Place, dir *os.File) error) error {
	w := t.walk()
	defer w.close()
	visit := func() error {
		return f(Place{Mount: w.mount(), Was: w.mount(), Path: w.path(), Rest: w.rest()}, w.dir)
	}
	if err := visit(); err != nil {
		return err
	}
	for rest := Trim(name); rest != ""; {
		var element string
		element, rest, _ = strings.Cut(rest, "/")
		if w.down(element) != "" {
			return ErrLink
		}
		if err := visit(); err != nil {
			return err
		}
	}
	return nil
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
		if w.down(element) != "" {
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
	f, err := m.Base.Find(rest)
	if err != nil {
		return !errors.Is(err, ErrAbsent)
	}
	defer f.Close()
	return readlink(f) != ""
}
