package integration

import (
	"archive/tar"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// diffed is the honest checkpoint with another rootfs-diff.tar.
func (a *target) diffed(t testing.TB, all ...tarEntry) []tarEntry {
	t.Helper()
	return withEntries(a.honest, regularEntry("rootfs-diff.tar", string(gzipBytes(t, packed(t, all)))))
}

// linkTo is a symbolic link, with a name that no image has.
func linkTo(where string) tarEntry { return specialEntry(tar.TypeSymlink, "link", where) }

// TestAttackDiffRefused gives rootfs-diff.tar what no container can have left in its
// root file system. It is found when containerd has created the container already.
func TestAttackDiffRefused(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	trusted := regularEntry("evil", "")
	trusted.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.opaque": "y"}
	trusted.Format = tar.FormatPAX
	for _, tc := range []struct {
		name  string
		diff  []tarEntry
		words []string
	}{
		{"parent", []tarEntry{regularEntry("../evil", "evil")}, []string{`"../evil"`}},
		{"parent after clean", []tarEntry{regularEntry("a/../../evil", "evil")}, []string{`"../evil"`}},
		{"whiteout of parent's", []tarEntry{regularEntry("../.wh.view", "")}, []string{`"../.wh.view"`}},
		{"opaque parent", []tarEntry{regularEntry("../.wh..wh..opq", "")}, []string{`"../.wh..wh..opq"`}},
		{"whiteout of ..", []tarEntry{regularEntry(".wh...", "")}, []string{`.wh...`}},
		{"whiteout of .. below", []tarEntry{regularEntry("etc/.wh...", "")}, []string{`.wh...`}},
		{"whiteout of nothing", []tarEntry{regularEntry("etc/.wh.", "")}, []string{`.wh.`}},
		{"character device", []tarEntry{specialEntry(tar.TypeChar, "evil", "")}, []string{`"evil"`, "device"}},
		{"block device", []tarEntry{specialEntry(tar.TypeBlock, "dev/evil", "")}, []string{`"dev/evil"`, "device"}},
		{"trusted attribute", []tarEntry{trusted}, []string{`"evil"`, "trusted.overlay.opaque"}},
		{"hard link to the host", []tarEntry{specialEntry(tar.TypeLink, "evil", a.secret)}, []string{"evil"}},
		{"hard link through a link", []tarEntry{linkTo(a.host), specialEntry(tar.TypeLink, "evil", "link/victim")},
			[]string{"evil"}},
		{"file as a directory", []tarEntry{regularEntry("evil", ""), regularEntry("evil/evil", "")},
			[]string{`"evil/evil"`, "does not fit"}},
		{"name too long", []tarEntry{regularEntry(strings.Repeat("e", 300), "")}, []string{"does not fit"}},
		{"no tar", nil, []string{"neither a tar"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			all := a.diffed(t, tc.diff...)
			if tc.diff == nil {
				all = withEntries(a.honest, regularEntry("rootfs-diff.tar", strings.Repeat("no tar ", 200)))
			}
			a.refuses(t, doctoredArchive(t, a.n, all), codes.InvalidArgument, append(tc.words, "rootfs-diff.tar")...)
		})
	}
	a.goesOn(t)
}

// TestAttackDiffSize gives rootfs-diff.tar more than the node allows.
func TestAttackDiffSize(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	var entries, files []tarEntry
	for i := range 2001 {
		entries = append(entries, regularEntry(fmt.Sprintf("many/%d", i), ""))
	}
	for i := range 48 {
		files = append(files, regularEntry(fmt.Sprintf("many/%d", i), strings.Repeat("\x00", 1<<20)))
	}
	bomb := regularEntry("bomb", strings.Repeat("\x00", 64<<20))
	for name, tc := range map[string]struct {
		all  []tarEntry
		word string
	}{
		"entries":    {a.diffed(t, entries...), "max_entries"},
		"one file":   {a.diffed(t, bomb), "max_diff_size"},
		"many files": {a.diffed(t, files...), "max_diff_size"},
		"behind the end": {withEntries(a.honest, regularEntry("rootfs-diff.tar",
			string(gzipBytes(t, append(packed(t, nil), make([]byte, 64<<20)...))))), "max_diff_size"},
	} {
		t.Run(name, func(t *testing.T) {
			a.refuses(t, doctoredArchive(t, a.n, tc.all), codes.ResourceExhausted, "rootfs-diff.tar", tc.word)
		})
	}
	t.Run("image", func(t *testing.T) {
		a.refusesImage(t, a.diffed(t, bomb), codes.ResourceExhausted, "rootfs-diff.tar", "max_diff_size")
	})
	a.goesOn(t)
}

// TestAttackDiffNeutral gives rootfs-diff.tar names that lead to the host when they are
// followed from there. A container may have such links; they mean its own root.
func TestAttackDiffNeutral(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	up := strings.Repeat("../", 12) + strings.TrimPrefix(a.host, "/")
	for name, diff := range map[string][]tarEntry{
		"absolute name":         {regularEntry(filepath.Join(a.host, "evil"), "evil")},
		"through absolute link": {linkTo(a.host), regularEntry("link/evil", "evil")},
		"through relative link": {linkTo(up), regularEntry("link/evil", "evil")},
		"through link to a link": {linkTo("/other"), specialEntry(tar.TypeSymlink, "other", up),
			regularEntry("link/evil", "evil")},
		"directory through link":  {linkTo(a.host), dirEntry("link/evil")},
		"link through link":       {linkTo(a.host), specialEntry(tar.TypeSymlink, "link/evil", "/")},
		"whiteout through link":   {linkTo(a.host), regularEntry("link/.wh.victim", "")},
		"opaque through link":     {linkTo(a.host), regularEntry("link/.wh..wh..opq", "")},
		"file in a link's place":  {linkTo(filepath.Join(a.host, "victim")), regularEntry("link", "evil")},
		"FIFO":                    {specialEntry(tar.TypeFifo, "fifo", "")},
		"whiteout of a directory": {regularEntry(".wh.home", "")},
	} {
		t.Run(name, func(t *testing.T) {
			a.accepts(t, doctoredArchive(t, a.n, a.diffed(t, diff...)), nil)
		})
	}
	// Of what deletes the program CRIU would not find it.
	for name, diff := range map[string][]tarEntry{"program": {regularEntry(".wh.bin", "")},
		"whole": {regularEntry(".wh..wh..opq", ""), dirEntry("etc")}} {
		t.Run("whiteout of the "+name, func(t *testing.T) {
			a.refuses(t, doctoredArchive(t, a.n, a.diffed(t, diff...)), codes.FailedPrecondition, "/bin/busybox is not there")
		})
	}
	t.Run("lands in the container", func(t *testing.T) {
		archive := doctoredArchive(t, a.n, a.diffed(t, linkTo(a.host), regularEntry("link/evil", "from the checkpoint"),
			specialEntry(tar.TypeFifo, "fifo", "")))
		a.accepts(t, archive, func(c *harness.Container) {
			c.Start()
			requireContinues(t, c, a.counted)
			if got := c.Exec("cat", filepath.Join(a.host, "evil")); got != "from the checkpoint" {
				t.Errorf("file behind a link: %q", got)
			}
			if got := c.Exec("ls", a.host); got != "evil\n" {
				t.Errorf("files in %s of the container: %q, want only evil", a.host, got)
			}
			c.Exec("test", "-p", "/fifo")
		})
	})
	for _, tc := range []struct{ name, files, word string }{
		{"parent", `["/../evil"]`, `".."`},
		{"relative", `["evil"]`, "absolute"},
		{"root", `["/"]`, "root directory"},
		{"many", `["/a"` + strings.Repeat(`,"/a"`, 2001) + `]`, "max_entries"},
	} {
		t.Run("deleted.files "+tc.name, func(t *testing.T) {
			code := codes.InvalidArgument
			if tc.word == "max_entries" {
				code = codes.ResourceExhausted
			}
			a.refuses(t, doctoredArchive(t, a.n, withEntries(a.honest, regularEntry("deleted.files", tc.files))), code,
				"deleted.files", tc.word)
		})
	}
	a.goesOn(t)
}
