package restore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWithoutRoom(t *testing.T) {
	if got := withoutRoom(t.TempDir(), "/nowhere"); got != "" {
		t.Errorf("got %q", got)
	}
	for options, says := range map[string]string{"size=4k,nr_inodes=10": "is full",
		"size=1m,nr_inodes=2": "no inodes left", "size=1m,ro": "is read-only"} {
		dir := t.TempDir()
		options, readOnly := strings.CutSuffix(options, ",ro")
		check(t, unix.Mount("test", dir, "tmpfs", 0, options))
		t.Cleanup(func() { check(t, unix.Unmount(dir, 0)) })
		check(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600))
		if readOnly {
			check(t, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		}
		if got := withoutRoom(dir); !strings.Contains(got, dir) || !strings.Contains(got, says) {
			t.Errorf("%s: got %q", options, got)
		}
	}
}
