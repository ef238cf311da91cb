package checkpoint

import (
	"testing"

	"github.com/containerd/errdefs"
)

// Names that archive/tar does not write.
func TestEntryName(t *testing.T) {
	for _, tc := range []struct {
		name string
		dir  bool
	}{
		{"", false}, {"", true}, {"./", false}, {".", false}, {"/", true}, {"//", true}, {"a\x00b", false}, {"..", true},
		{"a/", false}, {"./.", true},
	} {
		got, err := entryName(tc.name, tc.dir)
		if err == nil {
			t.Errorf("%q, %v: accepted as %q", tc.name, tc.dir, got)
			continue
		}
		wantError(t, err, errdefs.IsInvalidArgument)
	}
	for name, want := range map[string]string{".": ".", "./": ".", "./a": "a", "a/": "a", "./a/b/": "a/b"} {
		if got, err := entryName(name, true); err != nil || got != want {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}
