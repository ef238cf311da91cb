package checkpoint

import (
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

func open(t *testing.T, dir string) *Checkpoint {
	t.Helper()
	c, err := Open(dir, DefaultLimits())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestOpen(t *testing.T) {
	created := time.Date(2026, 11, 23, 8, 0, 0, 0, time.UTC)
	taken := created.Add(time.Hour)
	stdio := []string{"/dev/null", "pipe:[11]", "pipe:[12]"}
	for _, tc := range []struct {
		files   files
		want    Metadata
		deleted []string
	}{
		{
			files: containerdFiles(),
			want: Metadata{
				Engine: EngineContainerd, ID: "c1", Name: "counter_pod_default_uid_0", Runtime: "io.containerd.runc.v2",
				Base:      BaseImage{Name: "registry.example:5000/base:1", Reference: "registry.example:5000/base@sha256:" + hexA},
				CreatedAt: created, CheckpointedAt: taken, Stdio: stdio,
			},
		},
		{
			files: crioFiles(),
			want: Metadata{
				Engine: EngineCRIO, ID: "c2", Name: "k8s_counter_pod_default_uid_0", Runtime: "runc",
				Base:      BaseImage{Name: "registry.example:5000/base:1", Reference: "registry.example:5000/base@sha256:" + hexA},
				CreatedAt: created, CheckpointedAt: taken, Stdio: stdio, Binds: map[string]bool{},
			},
			deleted: []string{"/data/delme", "/data/dir"},
		},
		{
			files: podmanFiles(),
			want: Metadata{
				Engine: EnginePodman, ID: "c3", Name: "counter", Runtime: "runc",
				Base:      BaseImage{Name: "base", Reference: "sha256:" + hexB},
				CreatedAt: created, Stdio: stdio,
			},
			deleted: []string{"/data/delme"},
		},
	} {
		t.Run(string(tc.want.Engine), func(t *testing.T) {
			dir := tc.files.tree(t)
			if found, err := Found(dir); err != nil || !found {
				t.Fatalf("Found: %v, %v", found, err)
			}
			c := open(t, dir)
			got := c.Metadata
			if got.Spec == nil || got.Spec.Linux.Namespaces[0].Type != "pid" || got.Spec.Root.Path != "rootfs" {
				t.Errorf("spec: %+v", got.Spec)
			}
			got.Spec = nil
			tc.want.EngineMounts = []string{"/run/.containerenv"}
			if !reflect.DeepEqual(got, tc.want) {
				t.Errorf("got  %+v\nwant %+v", got, tc.want)
			}
			if c.Dir() != dir || c.ImagesDir() != filepath.Join(dir, "checkpoint") {
				t.Errorf("Dir %s, ImagesDir %s", c.Dir(), c.ImagesDir())
			}
			deleted, err := c.DeletedFiles()
			if err != nil || !reflect.DeepEqual(deleted, tc.deleted) {
				t.Errorf("DeletedFiles: %v, %v", deleted, err)
			}
			log, err := c.OpenLog()
			if err != nil {
				t.Fatal(err)
			}
			defer log.Close()
			if b, err := io.ReadAll(log); err != nil || !strings.HasSuffix(string(b), "count 1\n") {
				t.Errorf("log: %q, %v", b, err)
			}
			diff, err := c.OpenRootfsDiff(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			defer diff.Close()
			if diff.Whiteouts != (tc.want.Engine == EngineContainerd) || diff.Name() != "rootfs-diff.tar" {
				t.Errorf("diff: whiteouts %t, name %s", diff.Whiteouts, diff.Name())
			}
			if b, err := io.ReadAll(diff); err != nil || string(b) != tc.files["rootfs-diff.tar"] {
				t.Errorf("diff: %q, %v", b, err)
			}
		})
	}
}

// What an engine writes only if there is something to write.
func TestOpenMinimal(t *testing.T) {
	f := podmanFiles().without("ctr.log").without("rootfs-diff.tar").without("deleted.files")
	c := open(t, f.tree(t))
	if _, err := c.OpenLog(); !errdefs.IsNotFound(err) {
		t.Errorf("OpenLog: %v", err)
	}
	if _, err := c.OpenRootfsDiff(t.Context()); !errdefs.IsNotFound(err) {
		t.Errorf("OpenRootfsDiff: %v", err)
	}
	if deleted, err := c.DeletedFiles(); err != nil || deleted != nil {
		t.Errorf("DeletedFiles: %v, %v", deleted, err)
	}
	// One descriptor less is strange but harmless.
	open(t, f.with("checkpoint/descriptors.json", `["/dev/null"]`).tree(t))
}

func TestFound(t *testing.T) {
	for name, f := range map[string]files{
		"empty":        {},
		"config.dump":  containerdFiles().without("config.dump"),
		"spec.dump":    containerdFiles().without("spec.dump"),
		"inventory":    containerdFiles().without("checkpoint/inventory.img"),
		"no directory": {"config.dump": "", "spec.dump": ""},
	} {
		if found, err := Found(f.tree(t)); err != nil || found {
			t.Errorf("%s: %v, %v", name, found, err)
		}
	}
	// What is there but of the wrong type must be refused by Open, with a
	// reason, and not be started as an ordinary image.
	for _, name := range []string{"config.dump", "spec.dump", "checkpoint", "checkpoint/inventory.img"} {
		dir := containerdFiles().tree(t)
		file := filepath.Join(dir, name)
		if err := os.RemoveAll(file); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("/etc", file); err != nil {
			t.Fatal(err)
		}
		if found, err := Found(dir); err != nil || !found {
			t.Errorf("link %s: %v, %v", name, found, err)
		}
		_, err := Open(dir, DefaultLimits())
		wantError(t, err, errdefs.IsInvalidArgument, name, "symbolic link")
	}
}

func TestOpenDirectory(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "none")
	plain := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		dir string
		is  func(error) bool
	}{
		{missing, errdefs.IsNotFound},
		{plain, errdefs.IsInvalidArgument},
		{"relative", errdefs.IsInvalidArgument},
	} {
		_, err := Open(tc.dir, DefaultLimits())
		wantError(t, err, tc.is, tc.dir)
		_, err = Found(tc.dir)
		wantError(t, err, tc.is, tc.dir)
	}
}

func TestDeletedFiles(t *testing.T) {
	for _, bad := range []string{
		`["data"]`, `[""]`, `["./data"]`, `["/a/../../etc"]`, `["/.."]`, `["/"]`, `["//"]`, `["/."]`, `["/a\u0000b"]`,
		`["/` + strings.Repeat("x", 4096) + `"]`, `{"a":1}`, `["/a"] trailing`, `["/a"`, `[1]`, ``,
	} {
		c := open(t, crioFiles().with("deleted.files", bad).tree(t))
		_, err := c.DeletedFiles()
		wantError(t, err, errdefs.IsInvalidArgument, "deleted.files")
	}
	// Odd but honest: file names may hold almost everything.
	c := open(t, crioFiles().with("deleted.files", `["/a//b/","/..x","/a\\b","/new\nline"]`).tree(t))
	got, err := c.DeletedFiles()
	if want := []string{"/a/b", "/..x", `/a\b`, "/new\nline"}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestOpenLimits(t *testing.T) {
	f := crioFiles().with("deleted.files", `["/a","/b"]`)
	dir := f.tree(t)
	n := len(f) + 1 // and the directory checkpoint
	// The largest of the JSON files.
	size := int64(max(len(f["config.dump"]), len(f["spec.dump"])))
	exact := Limits{
		MetadataBytes: size,
		LogBytes:      int64(len(f["io.kubernetes.cri-o.LogPath"])),
		DiffBytes:     int64(len(f["rootfs-diff.tar"])),
		Entries:       n,
	}
	all := func(l Limits) error {
		c, err := Open(dir, l)
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.DeletedFiles(); err != nil {
			return err
		}
		log, err := c.OpenLog()
		if err != nil {
			return err
		}
		defer log.Close()
		diff, err := c.OpenRootfsDiff(t.Context())
		if err != nil {
			return err
		}
		return diff.Close()
	}
	if err := all(exact); err != nil {
		t.Fatalf("at the limits: %v", err)
	}
	for key, change := range map[string]func(*Limits){
		keyMetadata: func(l *Limits) { l.MetadataBytes-- },
		keyLog:      func(l *Limits) { l.LogBytes-- },
		keyDiff:     func(l *Limits) { l.DiffBytes-- },
		keyEntries:  func(l *Limits) { l.Entries-- },
	} {
		l := exact
		change(&l)
		wantError(t, all(l), errdefs.IsResourceExhausted, key, "more than the allowed")
	}
	wantError(t, all(Limits{}), errdefs.IsResourceExhausted)

	// Sparse files count with their size.
	if err := os.Truncate(filepath.Join(dir, "config.dump"), 1<<40); err != nil {
		t.Fatal(err)
	}
	wantError(t, all(DefaultLimits()), errdefs.IsResourceExhausted, "config.dump has 1099511627776 bytes", keyMetadata)
}

// Few bytes of JSON can become much memory.
func TestOpenManyValues(t *testing.T) {
	spec := func(n int) files {
		return containerdFiles().with("spec.dump", `{`+linuxSpec+`,"mounts":[{}`+strings.Repeat(`,{}`, n)+`]}`)
	}
	l := DefaultLimits()
	l.Entries = 100
	_, err := Open(spec(100).tree(t), l)
	wantError(t, err, errdefs.IsResourceExhausted, "spec.dump", "values", keyEntries)
	if _, err := Open(spec(80).tree(t), l); err != nil {
		t.Error(err)
	}
}

func TestOpenDepth(t *testing.T) {
	name := func(depth int) string { return strings.Repeat("d/", depth) + "x" }
	open(t, containerdFiles().with(name(maxDepth), "").tree(t))
	_, err := Open(containerdFiles().with(name(maxDepth+1), "").tree(t), DefaultLimits())
	wantError(t, err, errdefs.IsInvalidArgument, "nested")
}

func TestOpenDirectoryMode(t *testing.T) {
	// CRI-O's directory mode 0600, as it is in a mounted image.
	dir := crioFiles().tree(t)
	if err := os.Chmod(filepath.Join(dir, "checkpoint"), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 { // only root can look into such a directory
		open(t, dir)
	}
	// So that it can be removed.
	if err := os.Chmod(filepath.Join(dir, "checkpoint"), 0o700); err != nil {
		t.Fatal(err)
	}
}
