package main

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
)

func run(t *testing.T, args ...string) (string, error) {
	t.Helper()
	var out bytes.Buffer
	cmd := command()
	cmd.Writer, cmd.ErrWriter = &out, &bytes.Buffer{}
	err := cmd.Run(t.Context(), append([]string{"testimage"}, args...))
	return strings.TrimSpace(out.String()), err
}

func TestWritesLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	digest, err := run(t, "--file", "/x=a=b,c", "--env", "A=b", "--user", "app", "--cmd", "/bin/sleep", "--cmd", "9", dir)
	if err != nil {
		t.Fatal(err)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 || manifest.Manifests[0].Digest.String() != digest {
		t.Fatalf("layout has %+v, want the printed %s", manifest.Manifests, digest)
	}
	image, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	file, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if file.Config.User != "app" || file.Config.Env[len(file.Config.Env)-1] != "A=b" {
		t.Errorf("got user %q and environment %q, want app and A=b", file.Config.User, file.Config.Env)
	}
	if !slices.Equal(file.Config.Cmd, []string{"/bin/sleep", "9"}) {
		t.Errorf("got command %q, want /bin/sleep 9", file.Config.Cmd)
	}
}

func TestRefusesArguments(t *testing.T) {
	for want, args := range map[string][]string{
		"want one argument": {},
		"want PATH=CONTENT": {"--file", "x", t.TempDir()},
		"image layout":      {"/dev/null/x"},
	} {
		if _, err := run(t, args...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want an error with %q", args, err, want)
		}
	}
}
