package criu

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu/criutest"
)

func writeAll(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// openImages opens a directory with images until the end of the test.
func openImages(t *testing.T, dir string) *Images {
	t.Helper()
	images, err := OpenImages(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { images.Close() })
	return images
}

func TestSharedNamespaces(t *testing.T) {
	const net, pid, user, mnt = specs.NetworkNamespace, specs.PIDNamespace, specs.UserNamespace, specs.MountNamespace
	for name, c := range map[string]struct {
		processes criutest.Processes
		want      []specs.LinuxNamespaceType
	}{
		"ordinary":          {criutest.Processes{1: {user}, 7: {user}}, []specs.LinuxNamespaceType{user}},
		"user namespace":    {criutest.Processes{1: nil}, nil},
		"host network":      {criutest.Processes{1: {net, user}}, []specs.LinuxNamespaceType{net, user}},
		"one of them":       {criutest.Processes{1: {user}, 7: {mnt, user}}, []specs.LinuxNamespaceType{mnt, user}},
		"different for two": {criutest.Processes{1: {pid}, 7: {net}}, []specs.LinuxNamespaceType{net, pid}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := openImages(t, writeAll(t, criutest.Images(c.processes))).SharedNamespaces()
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("got %v, error %v, want %v", got, err, c.want)
			}
		})
	}
}

// TestSharedNamespacesUnnamed has an ID left out, and one that is 0: CRIU restores no
// namespace for either.
func TestSharedNamespacesUnnamed(t *testing.T) {
	files := criutest.Images(criutest.Processes{1: nil})
	ids := criutest.IDs(2)
	ids.MntNsId, ids.PidNsId = nil, proto.Uint32(0)
	files["ids-1.img"] = criutest.Image("IDS", ids)
	got, err := openImages(t, writeAll(t, files)).SharedNamespaces()
	if want := []specs.LinuxNamespaceType{specs.MountNamespace, specs.PIDNamespace}; err != nil ||
		!slices.Equal(got, want) {
		t.Errorf("got %v, error %v, want %v", got, err, want)
	}
}

// TestSharedNamespacesZombie has a child without IDs.
func TestSharedNamespacesZombie(t *testing.T) {
	files := criutest.Images(criutest.Processes{1: nil, 7: {specs.NetworkNamespace}})
	delete(files, "ids-7.img")
	if got, err := openImages(t, writeAll(t, files)).SharedNamespaces(); err != nil || len(got) != 0 {
		t.Errorf("got %v, error %v, want none", got, err)
	}
}

func TestSharedNamespacesInvalid(t *testing.T) {
	good := criutest.Images(criutest.Processes{1: nil})
	inv := good["inventory.img"]
	for name, change := range map[string]struct {
		file, content string
		says          string
	}{
		"no inventory":    {"inventory.img", "-", "not exist"},
		"no process tree": {"pstree.img", "-", "not exist"},
		"no IDs":          {"ids-1.img", "-", "not exist"},
		"empty tree":      {"pstree.img", criutest.Image("PSTREE"), "no process"},
		"empty inventory": {"inventory.img", criutest.Image("INVENTORY"), "0 entries"},
		"empty IDs":       {"ids-1.img", criutest.Image("IDS"), "0 entries"},
		"IDs of CRIU absent": {"inventory.img", criutest.Image("INVENTORY",
			&inventory.InventoryEntry{ImgVersion: proto.Uint32(2)}), "which"},
		"another kind":      {"ids-1.img", good["pstree.img"], "magic"},
		"nothing":           {"ids-1.img", "", "magic"},
		"cut in the length": {"inventory.img", inv[:6], "within an entry"},
		"cut in the entry":  {"inventory.img", inv[:len(inv)-1], "within an entry"},
		"huge length":       {"inventory.img", inv[:4] + "\xff\xff\xff\xff", "within an entry"},
		"no message":        {"inventory.img", inv[:4] + "\x01\x00\x00\x00\xff", "cannot be decoded"},
		"too large": {"pstree.img", good["pstree.img"] + "\xff\xff\xff\x01" + strings.Repeat("\x00", 0x1ffffff),
			"more than"},
	} {
		t.Run(name, func(t *testing.T) {
			files := maps.Clone(good)
			if files[change.file] = change.content; change.content == "-" {
				delete(files, change.file)
			}
			got, err := openImages(t, writeAll(t, files)).SharedNamespaces()
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), change.file) ||
				!strings.Contains(err.Error(), change.says) {
				t.Errorf("got %v, error %v, want one about %s that says %q", got, err, change.file, change.says)
			}
		})
	}
}
