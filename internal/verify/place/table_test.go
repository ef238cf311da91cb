package place

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func free(int) error { return nil }

// container is one with a root file system, a volume in it, one in that, procfs, a part of it, and /dev in memory.
func container(t *testing.T) *Table {
	t.Helper()
	root, volume, inner := t.TempDir(), t.TempDir(), t.TempDir()
	for _, d := range []string{root + "/data/sub", root + "/etc", root + "/dev/l", volume + "/in/er", volume + "/real", inner + "/deep"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{
		root + "/abs": "/data/sub", root + "/rel": "data/../data/sub", root + "/data/up": "../etc", root + "/loop": "loop", root + "/out": "../../../../etc",
		root + "/tovol": "/data/volume/link", volume + "/link": "real", volume + "/back": "../sub", volume + "/in/er/l": "/", root + "/etc/x": "/dev/null/x",
	} {
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	open := func(name string) *Dir {
		d, err := OpenDir(name)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	table, err := New([]*Mount{
		{ID: 1, At: "/", Kind: Root, Base: open(root)},
		{ID: 2, At: "/data/volume", Kind: Volume, Base: open(volume)},
		{ID: 3, At: "/data/volume/in/er", Kind: Volume, Base: open(inner), ReadOnly: true},
		{ID: 4, At: "/proc", Kind: Proc},
		{ID: 5, At: "/proc/sys", Kind: Proc, Part: "/sys", ReadOnly: true, Added: true},
		{ID: 6, At: "/dev", Kind: Tmpfs, Contents: &Contents{Links: map[string]string{"fd": "/proc/self/fd", "d/l": "../null"}, Names: map[string]bool{"d": true}}},
	}, free)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(table.Close)
	return table
}

func TestLocate(t *testing.T) {
	table := container(t)
	for _, c := range []struct {
		id         int32
		name, rest string
		err        error
		covered    bool
	}{
		{1, "/", "", nil, false}, {1, "/data", "data", nil, false}, {1, "/data/volumes", "data/volumes", nil, false}, {2, "/data/volume", "", nil, false},
		{2, "/data/volume/in", "in", nil, false}, {3, "/data/volume/in/er/deep", "deep", nil, false}, {4, "/proc/1/stat", "1/stat", nil, false},
		{4, "/proc/sys/kernel", "kernel", nil, true},
		{1, "/data/volume/x", "", ErrHidden, false}, {2, "/data/volume/in/er/deep", "", ErrHidden, false}, {2, "/data/x", "", ErrHidden, false},
		{1, "/dev/l/evil", "", ErrHidden, false}, {5, "/proc/sys/kernel", "", ErrNoMount, false}, {9, "/data", "", ErrNoMount, false},
	} {
		p, err := table.Locate(c.id, c.name)
		if !errors.Is(err, c.err) || err == nil && (p.Rest != c.rest || p.Covered() != c.covered) {
			t.Errorf("%d, %s: %q, covered %t, error %v, want %+v", c.id, c.name, p.Rest, p.Covered(), err, c)
		}
	}
	if got := table.At("/proc/sys/kernel/x").InFS(); got != "sys/kernel/x" {
		t.Errorf("in procfs it is %s", got)
	}
	if got := table.At("/proc/1").FSType(); got != unix.PROC_SUPER_MAGIC {
		t.Errorf("file system %#x", got)
	}
	if _, err := New([]*Mount{{At: "/data"}}, free); err == nil {
		t.Error("a table without a root")
	}
}

func TestResolve(t *testing.T) {
	table := container(t)
	for name, want := range map[string]string{
		"/data/sub": "/data/sub", "/abs": "/data/sub", "/rel/x": "/data/sub/x", "/data/up": "/etc", "/out/y": "/etc/y", "/none/../abs": "/data/sub",
		"/tovol/x": "/data/volume/real/x", "/data/volume/back": "/data/sub", "/data/volume/in/er/l/x": "/data/volume/in/er/l/x",
		"/data/volume/in/er/..": "/data/volume/in", "/data/volume/in/er/../../link": "/data/volume/real", "/data/volume/../up": "/etc",
		"/dev/fd/3": "/proc/self/fd/3", "/dev/d/l": "/dev/null", "/dev/l/evil": "/dev/l/evil", "//data/./sub/": "/data/sub", "/..": "/", "/etc/x": "/dev/null/x",
	} {
		got, err := table.Resolve(name)
		if err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", name, got, err, want)
		}
	}
	if _, err := table.Resolve("/loop/x"); err == nil {
		t.Error("a circle has an end")
	}
}

func TestLink(t *testing.T) {
	table := container(t)
	for name, want := range map[string]string{
		"/": "", "/data/sub/x": "", "/abs": "/abs", "/abs/x": "/abs", "/data/up/x": "/data/up", "/data/volume/link": "/data/volume/link",
		"/data/volume/real": "", "/data/volume/in/er/l": "", "/data/volume/in/er/deep/x/y": "", "/dev/fd": "/dev/fd", "/dev/fd/3": "/dev/fd", "/dev/null": "",
		"/dev/l/evil": "", "/proc/self": "", "/none/abs": "",
	} {
		if got := table.Link(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestDescend(t *testing.T) {
	table := container(t)
	var at []string
	err := table.Descend("", "/data/volume/in/er/deep/none/x", func(p Place, dir *os.File) error {
		state := "absent"
		if dir != nil {
			state = "open"
		}
		at = append(at, p.Path+" "+state)
		return nil
	})
	want := "/ open,/data open,/data/volume open,/data/volume/in open,/data/volume/in/er open,/data/volume/in/er/deep open,/data/volume/in/er/deep/none absent,/data/volume/in/er/deep/none/x absent"
	if got := strings.Join(at, ","); err != nil || got != want {
		t.Errorf("%v\n got %s\nwant %s", err, got, want)
	}
	all := strings.Split(want, ",")
	for i := range all[:len(all)-1] {
		from, _, _ := strings.Cut(all[i], " ")
		next := i + 1
		err := table.Descend(from, "/data/volume/in/er/deep/none/x", func(p Place, dir *os.File) error {
			state := " absent"
			if dir != nil {
				state = " open"
			}
			if got := p.Path + state; got != all[next] || p != table.At(p.Path) {
				t.Errorf("from %s: %s (%+v), want %s (%+v)", from, got, p, all[next], table.At(p.Path))
			}
			next++
			return nil
		})
		if err != nil || next != len(all) {
			t.Errorf("from %s: %v, %d", from, err, next)
		}
	}
	if at, err := table.Nearest("/abs/x"); !errors.Is(err, ErrLink) {
		t.Errorf("nearest: %s, %v", at.Path, err)
	}
	if err := table.Descend("", "/abs/x", func(Place, *os.File) error { return nil }); !errors.Is(err, ErrLink) {
		t.Errorf("got %v", err)
	}
}

// TestDeepPath: a path is gone along once, whatever it is long. (Where every directory was looked for from the top, one of these took seconds.)
func TestDeepPath(t *testing.T) {
	steps := 0
	count := func(n int) error { steps += n; return nil }
	dir, name := t.TempDir(), strings.Repeat("/a", 2000)
	if err := os.MkdirAll(filepath.Join(dir, name[:200]), 0o755); err != nil {
		t.Fatal(err)
	}
	base, err := OpenDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	table, err := New([]*Mount{{At: "/", Base: base}}, count)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	for what, look := range map[string]func(){
		"resolve": func() {
			if end, err := table.Resolve(name); err != nil || end != name {
				t.Errorf("%s, %v", end, err)
			}
		},
		"link": func() {
			if link := table.Link(name); link != "" {
				t.Errorf("link %s", link)
			}
		},
		"nearest": func() {
			if at, err := table.Nearest(name); err != nil || at.Path != name[:200] || at.Rest != name[1:200] {
				t.Errorf("nearest %s, %v", at.Path, err)
			}
		},
		"descend": func() { _ = table.Descend("", name, func(Place, *os.File) error { return nil }) },
		"type":    func() { table.At(name).FSType() },
	} {
		// Each element is looked at by the table and by the kernel, by halves for the type.
		if steps = 0; true {
			look()
		}
		if most := 2*2000 + 10; steps < 100 || what != "type" && steps > most || steps > 12*most {
			t.Errorf("%s: %d steps", what, steps)
		}
	}
}

// TestTableEndsWithItsSteps: whatever is looked for, nothing is found without a link, and nothing opened, when there are no steps left.
func TestTableEndsWithItsSteps(t *testing.T) {
	base, err := OpenDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	left := 0
	table, err := New([]*Mount{{At: "/", Base: base}}, func(n int) error {
		if left -= n; left < 0 {
			return context.Canceled
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	if _, err := table.Resolve("/a"); !errors.Is(err, context.Canceled) {
		t.Errorf("resolve: %v", err)
	}
	if _, err := table.At("/a").Find(); !errors.Is(err, context.Canceled) {
		t.Errorf("find: %v", err)
	}
	if err := table.Descend("", "/a", func(Place, *os.File) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("descend: %v", err)
	}
	if table.Link("/a") == "" {
		t.Error("no link")
	}
	// The honest twin.
	left = 100
	if end, err := table.Resolve("/a"); err != nil || end != "/a" || table.Link("/a") != "" {
		t.Errorf("%s, %v", end, err)
	}
}
