package policy

import (
	"fmt"
	"path"
	"strings"

	"github.com/containerd/errdefs"
)

// Pattern matches names whose elements are separated by slashes. Each element
// is a pattern of [path.Match]; an element "**" at the end stands for one
// or more elements. So "registry.example.com/team/**" matches everything below team,
// "**" matches everything, and "registry.example.com/team/*" exactly one level.
type Pattern struct {
	head string // without the trailing "/**"
	any  bool   // any number of elements follow
}

// NewPattern parses a pattern. The error is of class errdefs.ErrInvalidArgument.
func NewPattern(s string) (Pattern, error) {
	if s == "" {
		return Pattern{}, fmt.Errorf("empty pattern: %w", errdefs.ErrInvalidArgument)
	}
	p := Pattern{head: s}
	if s == "**" {
		p = Pattern{any: true}
	} else if head, ok := strings.CutSuffix(s, "/**"); ok {
		p = Pattern{head: head, any: true}
	}
	if p.any && p.head == "" && s != "**" {
		return Pattern{}, fmt.Errorf("pattern %q: no name begins with a slash, use \"**\" for all: %w", s,
			errdefs.ErrInvalidArgument)
	}
	if strings.Contains(p.head, "**") {
		return Pattern{}, fmt.Errorf("pattern %q: ** may only be its last element: %w", s, errdefs.ErrInvalidArgument)
	}
	if _, err := path.Match(p.head, ""); err != nil {
		return Pattern{}, fmt.Errorf("pattern %q: %w: %w", s, err, errdefs.ErrInvalidArgument)
	}
	return p, nil
}

// Match reports whether the whole name matches.
func (p Pattern) Match(name string) bool {
	if name == "" {
		return false
	}
	if p.any {
		if p.head == "" {
			return true
		}
		n := strings.Count(p.head, "/") + 1
		elements := strings.Split(name, "/")
		if len(elements) <= n {
			return false
		}
		name = strings.Join(elements[:n], "/")
	}
	ok, err := path.Match(p.head, name)
	return err == nil && ok
}

// matchID reports whether an image ID, a digest, matches. Only "**" and patterns that are
// written for IDs do.
func (p Pattern) matchID(id string) bool {
	algorithm, _, _ := strings.Cut(id, ":")
	everything := p.any && p.head == ""
	return everything || strings.HasPrefix(p.head, algorithm+":") && p.Match(id)
}
