package testimage_test

import (
	"archive/tar"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/cri-restore/cri-restore/integration/testimage"
)

func TestNewHasEverything(t *testing.T) {
	image, err := testimage.New(t.Context(), testimage.Options{Files: map[string]string{"/srv/www/index.html": "hello"}})
	if err != nil {
		t.Fatal(err)
	}
	stream := mutate.Extract(image)
	defer stream.Close()
	entries := map[string]*tar.Header{}
	content := map[string]string{}
	for reader := tar.NewReader(stream); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		name := "/" + strings.Trim(header.Name, "/")
		if entries[name] != nil {
			t.Errorf("%s: twice in the image", name)
		}
		entries[name] = header
		if header.Typeflag == tar.TypeReg && header.Size < 1000 {
			data, err := io.ReadAll(reader)
			if err != nil {
				t.Fatal(err)
			}
			content[name] = string(data)
		}
	}
	for _, applet := range []string{"sh", "sleep", "cat", "nc", "["} {
		if e := entries["/bin/"+applet]; e == nil || e.Typeflag != tar.TypeSymlink || e.Linkname != "busybox" {
			t.Errorf("/bin/%s: got %+v, want a link to busybox", applet, e)
		}
	}
	if e := entries["/bin/busybox"]; e == nil || e.Typeflag != tar.TypeReg || e.Mode != 0o755 {
		t.Errorf("/bin/busybox: got %+v, want a program", e)
	}
	if e := entries["/tmp"]; e == nil || e.Mode != 0o1777 {
		t.Errorf("/tmp: got %+v, want mode 1777", e)
	}
	if e := entries["/home/app"]; e == nil || e.Uid != testimage.UID {
		t.Errorf("/home/app: got %+v, want uid %d", e, testimage.UID)
	}
	for _, name := range testimage.DataFiles {
		if got := content[name]; got != name+"\n" {
			t.Errorf("%s: got %q, want its own path", name, got)
		}
	}
	if got := content["/srv/www/index.html"]; got != "hello" || entries["/srv/www"] == nil {
		t.Errorf("/srv/www/index.html: got %q, want hello, in a folder", got)
	}
}

func TestNewIsDeterministic(t *testing.T) {
	digest := func(opts testimage.Options) string {
		image, err := testimage.New(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		hash, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		return hash.String()
	}
	first := digest(testimage.Options{})
	if second := digest(testimage.Options{}); second != first {
		t.Errorf("same options: got %s, want %s", second, first)
	}
	for name, opts := range map[string]testimage.Options{
		"files": {Files: map[string]string{"/a": "b"}}, "env": {Env: []string{"A=b"}},
		"cmd": {Cmd: []string{"/bin/true"}}, "user": {User: "app"},
	} {
		if other := digest(opts); other == first {
			t.Errorf("other %s: same digest %s", name, other)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	dynamic, err := exec.LookPath("ls")
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, want string
		opts       testimage.Options
	}{
		{"no such busybox", "no such file", testimage.Options{Busybox: "/nonexistent/busybox"}},
		{"dynamic busybox", "busybox-static", testimage.Options{Busybox: dynamic}},
		{"relative file", "clean absolute path", testimage.Options{Files: map[string]string{"etc/x": ""}}},
		{"file outside", "clean absolute path", testimage.Options{Files: map[string]string{"/../x": ""}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := testimage.New(t.Context(), test.opts); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
}

func TestWriteLayout(t *testing.T) {
	const name = "localhost/busybox:test"
	image, err := testimage.New(t.Context(), testimage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir() + "/layout"
	if err := testimage.WriteLayout(image, dir, name); err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index); err != nil {
		t.Errorf("not a valid layout: %v", err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	want, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	names := []string{}
	for _, entry := range manifest.Manifests {
		names = append(names, entry.Annotations["io.containerd.image.name"]+"@"+entry.Digest.String())
	}
	if !slices.Equal(names, []string{name + "@" + want.String()}) {
		t.Errorf("layout has %v, want only %s", names, name)
	}
}
