package cgroup

import (
	"errors"
	"slices"
	"testing"
)

// fakeNode has options that anybody may take away.
type fakeNode struct {
	set    []string
	writes int
	broken error
}

func (f *fakeNode) options() *options {
	return &options{
		read: func() (string, []string, error) { return "/sys/fs/cgroup", slices.Clone(f.set), f.broken },
		write: func(_ string, set []string) error {
			f.writes++
			f.set = slices.Clone(set)
			return f.broken
		},
	}
}

func TestKeepOptions(t *testing.T) {
	before := []string{"nsdelegate", "memory_recursiveprot"}
	node := &fakeNode{set: before}
	o := node.options()
	failed := errors.New("dump failed")
	strip := func() error { node.set = nil; return nil }

	if err, lost := o.keep(func() error { return nil }); err != nil || lost != nil || node.writes > 0 {
		t.Errorf("nothing was taken away: %v, %v, %d writes", err, lost, node.writes)
	}
	if err, lost := o.keep(func() error { return errors.Join(strip(), failed) }); !errors.Is(err, failed) ||
		lost != nil || !slices.Equal(node.set, before) {
		t.Errorf("after a dump that failed: %v, %v, options %q", err, lost, node.set)
	}
	// Two at a time: the second comes when the first has taken them away.
	err, lost := o.keep(func() error {
		check := errors.Join(strip())
		err, lost := o.keep(strip)
		if !slices.Equal(node.set, before) {
			t.Errorf("when the second has ended: %q", node.set)
		}
		return errors.Join(check, err, lost, strip())
	})
	if err != nil || lost != nil || !slices.Equal(node.set, before) {
		t.Errorf("when both have ended: %v, %v, options %q", err, lost, node.set)
	}

	node.broken = errors.New("no mountinfo")
	called := false
	if err, lost := o.keep(func() error { called = true; return failed }); !errors.Is(err, failed) ||
		!errors.Is(lost, node.broken) || !called {
		t.Errorf("options that cannot be read: called %t, %v, %v", called, err, lost)
	}
	node.broken = nil
	node.set = before
	if err, lost := o.keep(strip); err != nil || lost != nil || !slices.Equal(node.set, before) {
		t.Errorf("afterwards: %v, %v, options %q", err, lost, node.set)
	}
}

func TestKeepOptionsWithoutMount(t *testing.T) {
	o := &options{read: func() (string, []string, error) { return "", nil, nil },
		write: func(string, []string) error { t.Error("written"); return nil }}
	if err, lost := o.keep(func() error { return nil }); err != nil || lost != nil {
		t.Errorf("%v, %v", err, lost)
	}
}

// TestReadOptions asks the machine.
func TestReadOptions(t *testing.T) {
	mount, set, err := readOptions()
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(set, "rw") || mount == "" && len(set) > 0 {
		t.Errorf("%s: %q", mount, set)
	}
}
