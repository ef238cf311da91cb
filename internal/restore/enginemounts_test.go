package restore

import (
	"os"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

func TestEngineMounts(t *testing.T) {
	const env = "/run/.containerenv"
	bind := func(dst string) specs.Mount {
		return specs.Mount{Destination: dst, Type: "bind", Source: "/etc/shadow"}
	}
	for name, c := range map[string]struct {
		had, has []specs.Mount
		add      int
	}{
		"had":             {[]specs.Mount{bind(env)}, nil, 1},
		"had, unclean":    {[]specs.Mount{bind(env + "/")}, nil, 1},
		"had not":         {[]specs.Mount{bind("/other")}, nil, 0},
		"the pod has one": {[]specs.Mount{bind(env)}, []specs.Mount{bind(env)}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			r := &Record{ID: NewID()}
			m := &checkpoint.Metadata{Spec: &specs.Spec{Mounts: c.had}, EngineMounts: []string{env}}
			for range 2 { // again after containerd was killed
				add, err := w.store.EngineMounts(r, m, &specs.Spec{Mounts: c.has})
				check(t, err)
				if len(add) != c.add {
					t.Fatalf("adds %v", add)
				}
				if c.add == 0 {
					continue
				}
				if add[0].Destination != env || add[0].Source == "/etc/shadow" {
					t.Errorf("adds %v", add[0])
				}
				content, err := os.ReadFile(add[0].Source)
				if err != nil || len(content) > 0 {
					t.Errorf("source has %q, %v", content, err)
				}
			}
			check(t, w.store.Dirs.Remove(r.ID))
			if _, err := os.Stat(w.store.Dirs.Engine(r.ID)); !os.IsNotExist(err) {
				t.Errorf("left: %v", err)
			}
		})
	}
}

func TestSetModes(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a/b/file": "x", "elsewhere/file": "x"})
	check(t, os.Symlink("elsewhere", dir+"/link"))
	check(t, os.Chmod(dir+"/elsewhere", 0o700))
	check(t, SetModes(dir, map[string]uint32{"/": 0o555, "/a": 0o1777, "/a/b": 0o750, "/none": 0o777, "/link": 0o777,
		"/a/b/file": 0o777, "/../x": 0o777}))
	for name, want := range map[string]uint32{"": 0o555, "/a": 0o1777, "/a/b": 0o750, "/elsewhere": 0o700,
		"/a/b/file": 0o644} {
		var st unix.Stat_t
		check(t, unix.Lstat(dir+name, &st))
		if got := st.Mode & 0o7777; got != want {
			t.Errorf("%q has mode %o, want %o", name, got, want)
		}
	}
	check(t, os.Chmod(dir, 0o755))
}
