package checkpoint

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func diffOf(t *testing.T, entries ...tar.Header) string {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range entries {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, h.Size)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.String()
}

// podmanSpecJSON is a spec with these mounts and this path of the PID namespace.
func podmanSpecJSON(t *testing.T, pid string, mounts ...specs.Mount) string {
	t.Helper()
	data, err := json.Marshal(specs.Spec{
		Process: &specs.Process{}, Root: &specs.Root{Path: "rootfs"},
		Mounts: append([]specs.Mount{{Destination: "/proc", Type: "proc"}}, mounts...),
		Linux: &specs.Linux{CgroupsPath: "/old", Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace, Path: pid}, {Type: specs.NetworkNamespace, Path: "/proc/7/ns/net"},
			{Type: specs.IPCNamespace, Path: "/proc/7/ns/ipc"},
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestWritePodman(t *testing.T) {
	bind := func(dst string) specs.Mount {
		return specs.Mount{Destination: dst, Type: "bind", Source: "/old", Options: []string{"rbind"}}
	}
	files := containerdFiles().
		with("status.dump", `{"image_id":"sha256:`+hexB+`"}`).
		with("spec.dump", podmanSpecJSON(t, "", bind("/etc/hosts"), bind("/data/"))).
		with("rootfs-diff.tar", diffOf(t,
			tar.Header{Typeflag: tar.TypeDir, Name: "etc/", Mode: 0o755},
			tar.Header{Typeflag: tar.TypeReg, Name: "etc/.wh.group"},
			tar.Header{Typeflag: tar.TypeReg, Name: "new", Size: 3, Mode: 0o644},
			tar.Header{Typeflag: tar.TypeReg, Name: "./.wh.gone"}))
	var buf bytes.Buffer
	if err := open(t, files.tree(t)).WritePodman(t.Context(), &buf,
		PodmanOptions{RootMode: 0o751, Volumes: map[string]string{"/data": "/srv"}, TempDir: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		content, err2 := io.ReadAll(r)
		if err := errors.Join(err, err2); err != nil {
			t.Fatal(err)
		}
		if _, twice := got[h.Name]; twice {
			t.Errorf("%s is there twice", h.Name)
		}
		got[h.Name] = string(content)
	}
	if got["deleted.files"] != `["/etc/group","/gone"]` || !strings.HasSuffix(got["ctr.log"], "count 1\n") ||
		got["checkpoint/inventory.img"] != "inventory" {
		t.Errorf("deleted.files %s, log %q", got["deleted.files"], got["ctr.log"])
	}
	var names []string
	for r := tar.NewReader(strings.NewReader(got["rootfs-diff.tar"])); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if names = append(names, h.Name); h.Name == "/" && h.Mode != 0o751 {
			t.Errorf("mode %o", h.Mode)
		}
	}
	if strings.Join(names, " ") != "/ etc/ new" {
		t.Errorf("rootfs-diff.tar has %q", names)
	}
	var config struct {
		RootfsImageID, RootfsImageName, Runtime string
		Spec                                    specs.Spec
	}
	if err := json.Unmarshal([]byte(got["config.dump"]), &config); err != nil {
		t.Fatal(err)
	}
	if config.RootfsImageID != hexB || config.RootfsImageName != "registry.example:5000/base@sha256:"+hexA ||
		config.Runtime != "runc" {
		t.Errorf("config.dump %s", got["config.dump"])
	}
	spec := config.Spec
	if len(spec.Mounts) != 2 || spec.Mounts[1].Source != "/srv" || spec.Linux.CgroupsPath != "" ||
		spec.Linux.Namespaces[1].Path == "" || spec.Linux.Namespaces[2].Path != "" ||
		spec.Annotations["io.container.manager"] != "libpod" {
		t.Errorf("spec %+v, %+v", spec, spec.Linux)
	}
	// What is written is a checkpoint of Podman's.
	back := open(t, regularOnly(got).tree(t))
	if back.Metadata.Engine != EnginePodman || back.Metadata.Base.Reference != "sha256:"+hexB {
		t.Errorf("read back: %+v", back.Metadata)
	}
}

// regularOnly leaves out the entries that are directories.
func regularOnly(all map[string]string) files {
	out := files{}
	for name, content := range all {
		if !strings.HasSuffix(name, "/") {
			out[name] = content
		}
	}
	return out
}

func TestWritePodmanRefuses(t *testing.T) {
	honest := containerdFiles().with("status.dump", `{"image_id":"sha256:`+hexB+`"}`).with("spec.dump",
		podmanSpecJSON(t, ""))
	for name, c := range map[string]struct {
		files   files
		options PodmanOptions
		is      func(error) bool
		says    string
	}{
		"Podman's": {podmanFiles(), PodmanOptions{}, errdefs.IsFailedPrecondition, "a checkpoint of Podman"},
		"shared PIDs": {honest.with("spec.dump", podmanSpecJSON(t, "/proc/7/ns/pid")), PodmanOptions{},
			errdefs.IsFailedPrecondition, "PID namespace"},
		"unknown volume": {honest.with("spec.dump", podmanSpecJSON(t, "",
			specs.Mount{Destination: "/data", Type: "bind"})), PodmanOptions{}, errdefs.IsFailedPrecondition,
			`volume at "/data"`},
		"volume too much": {honest, PodmanOptions{Volumes: map[string]string{"/x": "/y"}}, errdefs.IsInvalidArgument,
			`no volume at "/x"`},
		"no image ID": {honest.with("status.dump", `{}`), PodmanOptions{}, errdefs.IsFailedPrecondition, "image ID"},
		"opaque directory": {honest.with("rootfs-diff.tar",
			diffOf(t, tar.Header{Typeflag: tar.TypeReg, Name: "d/.wh..wh..opq"})), PodmanOptions{},
			errdefs.IsFailedPrecondition, `"/d/" was replaced`},
		"damaged diff": {honest.with("rootfs-diff.tar", strings.Repeat("x", 1024)), PodmanOptions{},
			errdefs.IsInvalidArgument, "rootfs-diff.tar"},
	} {
		err := open(t, c.files.tree(t)).WritePodman(t.Context(), io.Discard, c.options)
		if !c.is(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want one that says %q", name, err, c.says)
		}
	}
}
