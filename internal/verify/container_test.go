package verify

import (
	"maps"
	"path"
	"slices"
	"strconv"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/criu/criutest"
	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// subjectOf opens images.
func subjectOf(t testing.TB, images map[string]string, spec *specs.Spec, rules Rules) Subject {
	t.Helper()
	opened, err := criu.OpenImages(write(t, images))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	return Subject{Images: opened, Spec: spec, Rules: rules}
}

// verifierOf is a phase over images.
func verifierOf(t testing.TB, images map[string]string, spec *specs.Spec) (*verifier, error) {
	t.Helper()
	return newVerifier(t.Context(), subjectOf(t, images, spec, Rules{}), &Report{})
}

// reallyRoot is the mount of a file that is said to be in the root file system, whatever is mounted over it.
const reallyRoot = -criutest.RootMount

// stage gives a checkpoint the mounts of a spec, as runc would have made them in this root file system, and its files the mounts in
// which they are unless they are said to be in another one than the root file system.
func stage(t testing.TB, images map[string]string, spec *specs.Spec, root string) map[string]string {
	t.Helper()
	images = maps.Clone(images)
	has := func(p string) bool {
		return slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == p })
	}
	for at, kind := range map[string]string{"/dev": "tmpfs", "/dev/pts": "devpts", "/proc": "proc"} {
		if !has(at) {
			spec.Mounts = append(spec.Mounts, specs.Mount{Destination: at, Type: kind, Source: kind})
		}
	}
	base, err := place.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	defer base.Close()
	alone, err := place.New([]*place.Mount{{At: "/", Base: base}}, func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	unified := unifiedNode
	unifiedNode = func() bool { return false }
	t.Cleanup(func() { unifiedNode = unified })

	ids := map[string]uint32{"/": criutest.RootMount, "/proc": criutest.ProcMount, "/dev": criutest.DevMount, "/dev/pts": criutest.PtsMount}
	at := []string{"/"}
	kinds := map[string]mnt.Fstype{"/": mnt.Fstype_OVERLAYFS}
	for i, m := range spec.Mounts {
		dst, err := alone.Resolve(path.Clean("/" + m.Destination))
		if err != nil {
			t.Fatal(err)
		}
		if ids[dst] == 0 {
			ids[dst] = uint32(300 + i)
		}
		switch {
		case parseOptions(m).bind:
			if kinds[dst] = mnt.Fstype_UNSUPPORTED; m.Source == "" {
				spec.Mounts[i].Source = t.TempDir()
			}
		case m.Type == "cgroup":
			kinds[dst] = mnt.Fstype_TMPFS
		default:
			kinds[dst] = freshTypes[m.Type]
		}
		at = append(at, dst)
	}
	slices.Sort(at)
	above := func(p string) string {
		found := "/"
		for _, m := range at {
			if place.Below(m, p) && len(m) >= len(found) {
				found = m
			}
		}
		return found
	}
	var mounts []*mnt.MntEntry
	for _, p := range at {
		m := criutest.Mount(ids[p], ids[above(path.Dir(p))], p, kinds[p], "", 0)
		if kinds[p] == mnt.Fstype_UNSUPPORTED {
			m = criutest.Bind(ids[p], ids[above(path.Dir(p))], p, p, 0)
		}
		if p == "/" {
			m.ParentMntId = proto.Uint32(99)
		}
		archive := criutest.CgroupFiles()
		if p == "/dev" {
			m.RootDev, archive = proto.Uint32(52), criutest.DevFiles()
			for _, o := range at {
				if name := "./" + path.Base(o); path.Dir(o) == "/dev" && o != "/dev" && !slices.ContainsFunc(archive, func(e criutest.Entry) bool { return path.Clean(e.Name) == path.Clean(name) }) {
					archive = append(archive, criutest.Dir(name+"/"))
				}
			}
		}
		if name := "tmpfs-dev-" + strconv.Itoa(int(m.GetRootDev())) + ".tar.gz.img"; kinds[p] == mnt.Fstype_TMPFS && images[name] == "" {
			images[name] = criutest.Archive(archive...)
		}
		mounts = append(mounts, m)
	}
	entries := make([]proto.Message, len(mounts))
	for i := range mounts {
		entries[i] = mounts[i]
	}
	images["mountpoints-2.img"] = criutest.Image("MNTS", entries...)

	opened, err := criu.OpenImages(write(t, map[string]string{"files.img": images["files.img"]}))
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	files, err := criu.Entries[*fdinfo.FileEntry](opened, "files.img", "FILES")
	if err != nil {
		return images // on purpose
	}
	var out []proto.Message
	for _, f := range files {
		if r := f.GetReg(); r != nil && r.MntId != nil && r.GetMntId() == reallyRoot {
			r.MntId = proto.Int32(criutest.RootMount)
		} else if r != nil && r.MntId != nil && r.GetMntId() == criutest.RootMount {
			r.MntId = proto.Int32(int32(ids[above(r.GetName())]))
		}
		for _, w := range f.GetIfy().GetWd() {
			if h := w.GetFHandle(); h.MntId != nil && h.GetMntId() == criutest.RootMount {
				h.MntId = proto.Uint32(ids[above(h.GetPath())])
			}
		}
		out = append(out, f)
	}
	images["files.img"] = criutest.Image("FILES", out...)
	return images
}

// inContainer runs checks of the second phase over images that fit the spec's mounts.
func inContainer(t testing.TB, s Subject, root string, report *Report, checks ...func(*container) error) error {
	t.Helper()
	v, err := newVerifier(t.Context(), s, report)
	if err != nil {
		return err
	}
	base, err := place.OpenDir(root)
	if err != nil {
		t.Fatal(err)
	}
	at := &place.Mount{At: "/", Kind: place.Root, Base: base}
	before := report.Total
	tree, err := v.mountpoints(at)
	if err != nil {
		return err
	}
	if report.Unreadable != nil {
		return report.Unreadable
	}
	if report.Total != before {
		base.Close()
		return nil // the mounts are refused
	}
	table, err := v.table(tree, at)
	if err != nil {
		t.Fatal(err)
	}
	defer table.Close()
	o, err := newOpenFiles(v)
	if err != nil {
		return err
	}
	c := &container{openFiles: o, table: table, places: map[*openFile]place.Place{}}
	for _, check := range checks {
		if err := check(c); err != nil {
			return err
		}
	}
	return nil
}
