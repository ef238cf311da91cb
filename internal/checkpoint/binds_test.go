package checkpoint

import (
	"maps"
	"testing"

	"github.com/containerd/errdefs"
)

func TestBinds(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		want    map[string]bool
	}{
		"both":    {`[{"source":"/etc/shadow","destination":"/etc/hosts","file_type":"file","permissions":420},{"destination":"/data/","file_type":"directory"}]`, map[string]bool{"/etc/hosts": false, "/data": true}},
		"unknown": {`[{"destination":"/x","file_type":"socket"}]`, map[string]bool{}},
		"none":    {`[]`, map[string]bool{}},
	} {
		got := open(t, crioFiles().with("bind.mounts", c.content).tree(t)).Metadata.Binds
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: %v", name, got)
		}
	}
	if got := open(t, crioFiles().without("bind.mounts").tree(t)).Metadata.Binds; got != nil {
		t.Errorf("not recorded: %v", got)
	}
	for name, content := range map[string]string{"no list": `{}`,
		"control characters": `[{"destination":"/\u001b[2J","file_type":"file"}]`} {
		if _, err := Open(crioFiles().with("bind.mounts", content).tree(t),
			DefaultLimits()); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
