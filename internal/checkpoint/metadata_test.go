package checkpoint

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// replaced returns the files with one changed: old, new, ...
func replaced(f files, name string, pairs ...string) files {
	content := strings.NewReplacer(pairs...).Replace(f[name])
	if content == f[name] {
		panic("nothing replaced in " + name)
	}
	return f.with(name, content)
}

// T14, T34: what is malformed, beside what is odd but honest.
func TestMetadata(t *testing.T) {
	c, s, d := "config.dump", "spec.dump", "checkpoint/descriptors.json"
	f := containerdFiles()
	for _, tc := range []struct {
		name string
		bad  files
		says []string
		good files
	}{
		{"not JSON", f.with(c, "x"), []string{c}, f},
		{"empty", f.with(s, ""), []string{s}, f},
		{"trailing value", f.with(c, f[c]+`{}`), []string{c, "after top-level value"}, f.with(c, f[c]+" \n")},
		{"trailing garbage", f.with(s, f[s]+"x"), []string{s}, f.with(s, "\n"+f[s]+"\n")},
		{"null", f.with(s, `null`), []string{s}, f},
		{"array", f.with(c, `[]`), []string{c}, f},
		{
			"duplicate key", replaced(f, c, `"id":`, `"rootfsImageRef":"x","id":`), []string{c, "duplicate", "rootfsImageRef"},
			replaced(f, c, `"id":`, `"unknown":1,"unknown":2,"id":`),
		},
		{
			"duplicate key below", replaced(f, s, `"path":"rootfs"`, `"path":"/","path":"rootfs"`), []string{s, "duplicate"},
			replaced(f, s, `"path":"rootfs"`, `"path":"rootfs","readonly":true`),
		},
		{
			"duplicate annotation", replaced(f, s, `"annotations":{`, `"annotations":{"a":"1","a":"2",`),
			[]string{s, "duplicate"},
			replaced(f, s, `"annotations":{`, `"annotations":{"a":"1","A":"2",`),
		},
		{"other case", replaced(f, c, `"rootfsImageRef"`, `"RootfsImageRef"`), []string{c, "rootfsImageRef"}, f},
		{
			"deep nesting", replaced(f, c, `"id":`, `"x":`+strings.Repeat("[", 20000)+strings.Repeat("]", 20000)+`,"id":`),
			[]string{c, "depth"},
			replaced(f, c, `"id":`, `"x":`+strings.Repeat("[", 1000)+strings.Repeat("]", 1000)+`,"id":`),
		},
		{"wrong type", replaced(f, c, `"c1"`, `["c1"]`), []string{c}, f},
		{"wrong time", replaced(f, c, `2026-11-23T08:00:00Z`, `yesterday`), []string{c},
			replaced(f, c, `08:00:00Z`, `08:00:00.123456789+02:00`)},
		{"no linux", replaced(f, s, `"linux":`, `"solaris":`), []string{s, "Linux"}, f},
		{"no process", replaced(f, s, `"process":`, `"Process":`), []string{s, "Linux"}, f},
		{"null root", replaced(f, s, `{"path":"rootfs"}`, `null`), []string{s, "Linux"}, f},
		{"control character in id", replaced(f, c, `"c1"`, `"c1\nx"`), []string{c, "id"}, replaced(f, c, `"c1"`, `"c1 ü"`)},
		{"long name", replaced(f, c, `counter`, strings.Repeat("c", 1025)), []string{c, "name", "1024"},
			replaced(f, c, `counter`, strings.Repeat("c", 400))},
		{"escape in runtime", replaced(f, c, `io.containerd.runc.v2`, `\u001b[2J`), []string{c, "runtime"},
			replaced(f, c, `io.containerd.runc.v2`, `crun`)},
		{"escape in image name", replaced(f, c, `"rootfsImage":"`, `"rootfsImage":"\u009b2J`), []string{c, "image name"},
			replaced(f, c, `"rootfsImage":"`, `"rootfsImage":"any text, `)},
		{"four descriptors", f.with(d, `["a","b","c","pipe:[1]"]`), []string{d, "4 entries", "at most 3"},
			f.with(d, `["a","b","c"]`)},
		{"no descriptors", f.without(d), []string{d, "missing"}, f.with(d, `[]`)},
		{"descriptors no list", f.with(d, `{"3":"pipe:[1]"}`), []string{d}, f},
		{"descriptors no strings", f.with(d, `[0,1,2]`), []string{d}, f.with(d, `null`)},
		{"NUL in descriptors", f.with(d, `["a\u0000"]`), []string{d, "entry 0"}, f.with(d, `["/dev/pts/0 (deleted)"]`)},
		{"no config.dump", f.without(c), []string{c, "missing"}, f},
		{"no spec.dump", f.without(s), []string{s, "missing"}, f},
		{"no inventory", f.without("checkpoint/inventory.img"), []string{"inventory.img is missing"}, f},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, err := Open(tc.bad.tree(t), DefaultLimits())
			wantError(t, err, errdefs.IsInvalidArgument, tc.says...)
			open(t, tc.good.tree(t))
		})
	}
}

// A stranger's text must not fill the log.
func TestMetadataLongError(t *testing.T) {
	long := strings.Repeat("x", 1<<20)
	for _, f := range []files{
		replaced(containerdFiles(), "config.dump", "registry.example:5000/base@", long+"@"),
		replaced(containerdFiles(), "config.dump", `"c1"`, `"`+long+`"`),
		replaced(containerdFiles(), "config.dump", `"2026-11-23T08:00:00Z"`, `"`+long+`"`),
		containerdFiles().with("checkpoint/descriptors.json", `["`+long+`"]`),
	} {
		_, err := Open(f.tree(t), DefaultLimits())
		wantError(t, err, errdefs.IsInvalidArgument)
	}
}

func TestEngine(t *testing.T) {
	for manager, want := range map[string]Engine{
		"cri-o":      EngineCRIO,
		"libpod":     EnginePodman,
		"containerd": EngineContainerd,
		"CRI-O":      EngineContainerd,
		"":           EngineContainerd,
	} {
		f := replaced(containerdFiles(), "spec.dump", `"annotations":{`,
			`"annotations":{"io.container.manager":"`+manager+`",`)
		// With the fields of all three, so that any of them can be read.
		f = replaced(f, "config.dump", `"id":`, `"rootfsImageID":"`+hexB+`","id":`)
		if got := open(t, f.tree(t)).Metadata.Engine; got != want {
			t.Errorf("%q: %s, want %s", manager, got, want)
		}
	}
}
