package checkpoint

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestNested(t *testing.T) {
	plain := containerdFiles().images()
	archive := func(name string) files {
		return files{name: string(tarball(t, plain.entries()...))}
	}
	for name, c := range map[string]struct {
		tree files
		want string
	}{
		"tar":                {archive("a.tar"), "a.tar"},
		"any name":           {archive("x"), "x"},
		"gzip":               {files{"x": "\x1f\x8b\x08 and so on"}, "x"},
		"zstd":               {files{"x": "\x28\xb5\x2f\xfd and so on"}, "x"},
		"in a directory":     {archive("d/a.tar"), ""},
		"two files":          {archive("a.tar").with("b", ""), ""},
		"no archive":         {files{"a.tar": strings.Repeat("x", 600)}, ""},
		"short":              {files{"a.tar": "x"}, ""},
		"nothing":            {files{}, ""},
		"unpacked, as it is": {plain, ""},
	} {
		dir := c.tree.tree(t)
		got, err := Nested(dir)
		if want := c.want; want != "" {
			want = filepath.Join(dir, want)
			if got != want || err != nil {
				t.Errorf("%s: got %q, %v, want %q", name, got, err, want)
			}
		} else if got != "" || err != nil {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
	}
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "a.tar")); err != nil {
		t.Fatal(err)
	}
	if got, err := Nested(dir); got != "" || err != nil {
		t.Errorf("link: %q, %v", got, err)
	}
}

func TestUnpackMetadata(t *testing.T) {
	dir := t.TempDir()
	if err := UnpackMetadata(t.Context(), stored(t, tarball(t, containerdFiles().images().entries()...)), dir,
		DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	if c := open(t, dir); c.Metadata.Engine != EngineContainerd || c.Metadata.Base.Reference == "" {
		t.Errorf("%+v", c.Metadata)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return strings.HasPrefix(e.Name(), "pages-") }) {
		t.Error("the pages were unpacked")
	}
	bad := containerdFiles().images()
	bad["checkpoint/../../x"] = "x"
	if err := UnpackMetadata(t.Context(), stored(t, tarball(t, bad.entries()...)), t.TempDir(),
		DefaultLimits()); err == nil {
		t.Error("an entry that is not taken is not looked at")
	}
}
