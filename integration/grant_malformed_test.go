package integration

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// malformations are what can be wrong with any image that has entries (T40).
var malformations = []struct {
	what   string
	change func(image []byte) []byte
}{
	{"cut off", func(b []byte) []byte { return b[:len(b)-1] }},
	{"cut off in a length", func(b []byte) []byte { return append(slices.Clone(b), 1, 0) }},
	{"huge length", func(b []byte) []byte {
		b = slices.Clone(b)
		binary.LittleEndian.PutUint32(b[len(magicOf(b)):], 0x7fffffff)
		return b
	}},
	{"unknown field", func(b []byte) []byte {
		return inFirst(b, func(e []byte) []byte {
			return protowire.AppendVarint(protowire.AppendTag(e, 500, protowire.VarintType), 1)
		})
	}},
	{"field twice", func(b []byte) []byte {
		return inFirst(b, func(e []byte) []byte {
			_, _, size := protowire.ConsumeField(e)
			return append(slices.Clone(e[:size]), e...)
		})
	}},
	{"not protobuf", func(b []byte) []byte { return inFirst(b, func([]byte) []byte { return []byte{0xff, 0xff, 0xff} }) }},
	{"other kind", func(b []byte) []byte { return append([]byte("criu"), b[4:]...) }},
	{"nothing", func([]byte) []byte { return nil }},
}

// magicOf returns the magic numbers of an image: one of the inventory, two of every other.
func magicOf(image []byte) []byte {
	if binary.LittleEndian.Uint32(image) == 0x58313116 {
		return image[:4]
	}
	return image[:8]
}

func inFirst(image []byte, change func([]byte) []byte) []byte {
	magic := magicOf(image)
	n := 4 + binary.LittleEndian.Uint32(image[len(magic):])
	out := rawImage(magic, change(image[len(magic)+4:len(magic)+int(n)]))
	return append(out, image[len(magic)+int(n):]...)
}

// TestGrantMalformed breaks each image of a checkpoint in each way, so that no decoder of ours
// fails on it, and none is more generous than the one of CRIU (T40).
func TestGrantMalformed(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newGrant(t, n, restricted(0)...) // it has filters
	var names []string
	editImages(t, g.archive, func(e *imageEditor) { names = e.Names() })
	for _, name := range names {
		if !strings.HasSuffix(name, ".img") || strings.HasPrefix(name, "pages-") || strings.HasSuffix(name, ".tar.gz.img") {
			continue // they have no entries
		}
		replaced := slices.ContainsFunc([]string{"cgroup", "ipcns-var-", "utsns-"},
			func(prefix string) bool { return strings.HasPrefix(name, prefix) })
		for _, m := range malformations {
			if name == "seccomp.img" && m.what == "field twice" {
				continue // that is two filters
			}
			t.Run(name+" "+m.what, func(t *testing.T) {
				archive := editImages(t, g.archive, func(e *imageEditor) { e.Write(name, m.change(e.Read(name))) })
				switch {
				case !replaced:
					g.refuses(t, archive, codes.InvalidArgument, name)
				case m.what == "not protobuf":
					// Nobody reads these: CRIU gets ones of the plugin's in their place.
					g.accepts(t, archive, nil)
				}
			})
		}
	}
	t.Run("twin", func(t *testing.T) { g.accepts(t, g.archive, nil) })
}

// TestGrantLeftovers adds to the images what CRIU would read, follow or connect to (T39).
func TestGrantLeftovers(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	g := newGrant(t, n)
	images := entriesOf(t, g.archive)
	for what, tc := range map[string]struct {
		entry tarEntry
		code  codes.Code
		word  string
	}{
		// Pages that are not in a checkpoint CRIU looks up in its parent.
		"parent as a link":      {specialEntry('2', "checkpoint/parent", "/etc"), codes.InvalidArgument, "parent"},
		"parent as a directory": {dirEntry("checkpoint/parent"), codes.InvalidArgument, "parent"},
		"parent as a file":      {regularEntry("checkpoint/parent", "/etc"), codes.PermissionDenied, "parent"},
		"socket of lazy pages": {regularEntry("checkpoint/lazy-pages.socket", ""), codes.PermissionDenied,
			"lazy-pages.socket"},
		"server of pages": {regularEntry("checkpoint/page-server.img", ""), codes.PermissionDenied, "page-server.img"},
		"configuration": {regularEntry("checkpoint/criu.conf", "action-script /bin/sh\n"), codes.PermissionDenied,
			"criu.conf"},
		"plugin":           {regularEntry("checkpoint/plugin.so", "ELF"), codes.PermissionDenied, "plugin.so"},
		"image of no kind": {regularEntry("checkpoint/evil.img", "evil"), codes.PermissionDenied, "evil.img"},
		"image of the network": {regularEntry("checkpoint/iptables-10.img", "*filter\n-F\n"), codes.PermissionDenied,
			"iptables-10.img"},
		"routes": {regularEntry("checkpoint/route-10.img", "evil"), codes.PermissionDenied, "route-10.img"},
		"binfmt": {regularEntry("checkpoint/binfmt-misc-99.img", "evil"), codes.PermissionDenied,
			"binfmt-misc-99.img"},
		"irmap": {regularEntry("checkpoint/irmap-cache.img", "evil"), codes.PermissionDenied,
			"irmap-cache.img"},
		"messages": {regularEntry("checkpoint/ipcns-msg-11.img", "evil"), codes.InvalidArgument,
			"ipcns-msg-11.img"},
		"semaphores": {regularEntry("checkpoint/ipcns-sem-11.img", "evil"), codes.InvalidArgument,
			"ipcns-sem-11.img"},
		"shared memory": {regularEntry("checkpoint/ipcns-shm-11.img", "evil"), codes.InvalidArgument,
			"ipcns-shm-11.img"},
	} {
		t.Run(what, func(t *testing.T) {
			g.refuses(t, doctoredArchive(t, n, withEntries(images, tc.entry)), tc.code, tc.word)
		})
	}
	for what, content := range map[string]string{
		"four descriptors": `["/dev/null","pipe:[1]","pipe:[2]","pipe:[3]"]`,
		"forty":            `["` + strings.Repeat(`pipe:[1]","`, 39) + `pipe:[1]"]`,
	} {
		// runc hands each that is a pipe to CRIU as a descriptor of that number (T34).
		t.Run(what, func(t *testing.T) {
			g.refusesEdited(t, func(e *imageEditor) { e.Write("descriptors.json", []byte(content)) }, codes.InvalidArgument,
				"descriptors.json")
		})
	}
	t.Run("twin", func(t *testing.T) { g.accepts(t, g.archive, nil) })
}
