package cri

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/image"
	"github.com/cri-restore/cri-restore/internal/restore"
)

// fill sets every field of a message, those of later versions of the CRI too.
func fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		switch {
		case fd.IsMap():
			value := m.NewField(fd).Map()
			value.Set(protoreflect.ValueOfString(string(fd.Name())+"-key").MapKey(),
				scalar(value.NewValue, fd.MapValue(), depth))
			m.Set(fd, protoreflect.ValueOfMap(value))
		case fd.IsList():
			value := m.NewField(fd).List()
			value.Append(scalar(value.NewElement, fd, depth))
			m.Set(fd, protoreflect.ValueOfList(value))
		default:
			m.Set(fd, scalar(func() protoreflect.Value { return m.NewField(fd) }, fd, depth))
		}
	}
}

func scalar(fresh func() protoreflect.Value, fd protoreflect.FieldDescriptor, depth int) protoreflect.Value {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		v := fresh()
		if depth < 8 {
			fill(v.Message(), depth+1)
		}
		return v
	case protoreflect.StringKind:
		return protoreflect.ValueOfString("value of " + string(fd.Name()))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(fd.Name()))
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.EnumKind:
		return protoreflect.ValueOfEnum(1)
	case protoreflect.Int32Kind:
		return protoreflect.ValueOfInt32(int32(fd.Number()))
	case protoreflect.Int64Kind:
		return protoreflect.ValueOfInt64(int64(fd.Number()))
	case protoreflect.Uint32Kind:
		return protoreflect.ValueOfUint32(uint32(fd.Number()))
	case protoreflect.Uint64Kind:
		return protoreflect.ValueOfUint64(uint64(fd.Number()))
	}
	panic(fmt.Sprintf("%s is a %s", fd.FullName(), fd.Kind()))
}

func fullRequest(t *testing.T) *runtime.CreateContainerRequest {
	t.Helper()
	r := &runtime.CreateContainerRequest{}
	fill(r.ProtoReflect(), 0)
	if r.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions().GetUsernsOptions().GetUids() == nil {
		t.Fatal("a deep field is not set")
	}
	return r
}

func TestRewriteKeepsTheRequest(t *testing.T) {
	r := fullRequest(t)
	before := proto.Clone(r).(*runtime.CreateContainerRequest)
	record := &restore.Record{ID: restore.NewID(), Image: "registry.example/c:1", BaseImage: "base@sha256:x",
		Producer: "containerd"}
	m := &checkpoint.Metadata{ID: "old", Name: "old", Spec: &specs.Spec{
		Process:     &specs.Process{Args: []string{"old"}, Env: []string{"OLD=1"}, Cwd: "/old"},
		Annotations: map[string]string{"old": "old"}, Hostname: "old",
	}}
	out := rewrite(r, m, &image.Base{ID: "sha256:base"}, record)
	if !proto.Equal(r, before) {
		t.Error("the caller's request was changed")
	}
	if out.Config.Image.Image != "sha256:base" {
		t.Errorf("image %q", out.Config.Image.Image)
	}
	for key, value := range record.Annotations() {
		if out.Config.Annotations[key] != value {
			t.Errorf("annotation %s is %q", key, out.Config.Annotations[key])
		}
		delete(out.Config.Annotations, key)
	}
	// With these two put back there is no difference.
	out.Config.Image.Image = r.Config.Image.Image
	if !proto.Equal(out, r) {
		t.Errorf("got  %v\nwant %v", out, r)
	}
}

func TestRewriteFillsIn(t *testing.T) {
	record := &restore.Record{ID: restore.NewID()}
	process := &specs.Spec{Process: &specs.Process{Args: []string{"count", "up"}}}
	for name, c := range map[string]struct {
		config        *runtime.ContainerConfig
		spec          *specs.Spec
		command, args []string
		user          string
	}{
		"no command": {&runtime.ContainerConfig{}, process, []string{"count", "up"}, nil, "ref"},
		"a command":  {&runtime.ContainerConfig{Command: []string{"sh"}}, process, []string{"sh"}, nil, "ref"},
		"arguments":  {&runtime.ContainerConfig{Args: []string{"-c"}}, process, nil, []string{"-c"}, "ref"},
		"no process": {&runtime.ContainerConfig{}, &specs.Spec{}, nil, nil, "ref"},
		"the user's word": {&runtime.ContainerConfig{Image: &runtime.ImageSpec{UserSpecifiedImage: "user's"}}, process,
			[]string{"count", "up"}, nil, "user's"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.config.Image == nil {
				c.config.Image = &runtime.ImageSpec{}
			}
			c.config.Image.Image = "ref"
			m := &checkpoint.Metadata{Spec: c.spec}
			out := rewrite(&runtime.CreateContainerRequest{Config: c.config}, m, &image.Base{ID: "base"}, record).Config
			if !slices.Equal(out.Command, c.command) || !slices.Equal(out.Args, c.args) ||
				out.Image.UserSpecifiedImage != c.user || out.Image.Image != "base" {
				t.Errorf("got %v", out)
			}
			if !maps.Equal(out.Annotations, record.Annotations()) {
				t.Errorf("annotations %v", out.Annotations)
			}
			if len(out.Command) > 0 && c.spec.Process != nil {
				out.Command[0] = "changed"
				if c.spec.Process.Args[0] != "count" {
					t.Error("the command is shared with the checkpoint")
				}
			}
		})
	}
}

func TestDescribe(t *testing.T) {
	at := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	r := &restore.Record{ID: "x", Image: "y"}
	describe(r, &checkpoint.Metadata{Engine: checkpoint.EnginePodman, CheckpointedAt: at},
		&image.Base{Reference: "base@sha256:x"})
	if want := (restore.Record{ID: "x", Image: "y", BaseImage: "base@sha256:x", Producer: "Podman",
		CheckpointedAt: at}); !reflect.DeepEqual(*r, want) {
		t.Errorf("%+v", r)
	}
}

func TestLogPath(t *testing.T) {
	for _, c := range []struct{ dir, file, want string }{
		{"/var/log/pods/p", "c/0.log", "/var/log/pods/p/c/0.log"},
		{"/var/log/pods/p/", "0.log", "/var/log/pods/p/0.log"},
		{"", "0.log", ""}, {"/var/log", "", ""}, {"", "", ""},
	} {
		got := logPath(&runtime.CreateContainerRequest{
			SandboxConfig: &runtime.PodSandboxConfig{LogDirectory: c.dir}, Config: &runtime.ContainerConfig{LogPath: c.file},
		})
		if got != c.want {
			t.Errorf("%q, %q: %q", c.dir, c.file, got)
		}
	}
	if got := logPath(&runtime.CreateContainerRequest{}); got != "" {
		t.Errorf("%q", got)
	}
}
