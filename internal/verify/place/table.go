package place

import (
	"errors"
	"fmt"
	"strings"
)

var (
	// ErrNoMount says that the container has no mount of an ID.
	ErrNoMount = errors.New("it is in no mount of the container")
	// ErrHidden says that a path is in another mount than the one that it is said to be in.
	ErrHidden = errors.New("it is not in that mount")
)

// Table are the mounts of a container.
type Table struct {
	top  *node
	byID map[int32]*Mount
	step func(int) error
}

// node is an element of the paths of mount points.
type node struct {
	mount    *Mount
	children map[string]*node
}

// New makes a table of mounts. One of them is at "/", and no two at one place: the later counts. Whoever looks for a path in it takes
// steps, one for each element that the kernel or the table is asked about. The error of step ends what is looked for; from then on
// no answer of the table is a true one. Without a step, that costs nothing.
func New(mounts []*Mount, step func(n int) error) (*Table, error) {
	if step == nil {
		step = func(int) error { return nil }
	}
	t := &Table{top: &node{}, byID: map[int32]*Mount{}, step: step}
	for _, m := range mounts {
		m.step = step
		m.Contents.measure()
		n := t.top
		for rest := Trim(m.At); rest != ""; {
			var element string
			element, rest, _ = strings.Cut(rest, "/")
			if n.children == nil {
				n.children = map[string]*node{}
			}
			if n.children[element] == nil {
				n.children[element] = &node{}
			}
			n = n.children[element]
		}
		n.mount, t.byID[m.ID] = m, m
	}
	if t.top.mount == nil {
		return nil, errors.New("mounts of a container: none is at /")
	}
	return t, nil
}

func (c *Contents) measure() {
	if c == nil {
		return
	}
	c.longest = -1
	for name := range c.Links {
		c.longest = max(c.longest, len(name))
	}
}

// ByID returns the mount of an ID, or nil.
func (t *Table) ByID(id int32) *Mount { return t.byID[id] }

// At says where a clean and absolute path is that leads through no link.
func (t *Table) At(name string) Place {
	p := Place{Mount: t.top.mount, Was: t.top.mount, Path: name, Rest: Trim(name)}
	n := t.top
	for rest := p.Rest; rest != ""; {
		var element string
		element, rest, _ = strings.Cut(rest, "/")
		if n = n.children[element]; n == nil {
			break
		}
		if n.mount != nil {
			p.Mount, p.Rest = n.mount, rest
			if !n.mount.Added {
				p.Was = n.mount
			}
		}
	}
	return p
}

// HasBelow says whether a mount point is below a clean and absolute path.
func (t *Table) HasBelow(name string) bool {
	n := t.top
	for rest := Trim(name); rest != ""; {
		var element string
		element, rest, _ = strings.Cut(rest, "/")
		if n = n.children[element]; n == nil {
			return false
		}
	}
	return len(n.children) > 0
}

// Covered says that a mount which the checkpoint does not have is over a path.
func (p Place) Covered() bool { return p.Mount != p.Was }

// Locate is At for a path that an image says to be in the mount of an ID: the innermost one of the checkpoint's. CRIU takes some
// paths relative to that mount, whatever is mounted over them, and from outside the container (criu/files-reg.c, create_ghost).
// The error is [ErrNoMount] or [ErrHidden].
func (t *Table) Locate(id int32, name string) (Place, error) {
	p := t.At(name)
	m := t.byID[id]
	switch {
	case m == nil || m.Added:
		return p, ErrNoMount
	case m != p.Was:
		return p, fmt.Errorf("%w: the mount is at %.200q, and what is at the path is in that at %.200q", ErrHidden, m.At, p.Was.At)
	}
	return p, nil
}

// Close closes what the mounts have open.
func (t *Table) Close() {
	for _, m := range t.byID {
		if m.Base != nil {
			m.Base.Close()
		}
	}
	if m := t.top.mount; t.byID[m.ID] != m && m.Base != nil {
		m.Base.Close()
	}
}
