package verify

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestUser: the thread has the rights of the user, and nothing of the process changes.
func TestUser(t *testing.T) {
	state := func() string {
		t.Helper()
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		if err != nil {
			t.Fatal(err)
		}
		out := fmt.Sprintln("dumpable", dumpable)
		for _, line := range strings.Split(string(status), "\n") {
			if key, _, _ := strings.Cut(line, ":"); slices.Contains([]string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd"}, key) {
				out += line + "\n"
			}
		}
		return out
	}
	threads := func() int {
		t.Helper()
		all, err := os.ReadDir("/proc/self/task")
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(secret, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	before := state()
	start := threads()
	for range 50 {
		u, err := newUser(granted{uid: 1000, gid: 1000, groups: []uint32{7}})
		if err != nil {
			t.Fatal(err)
		}
		for uid, want := range map[uint32]error{1000: unix.EACCES, 0: nil, 1001: unix.EACCES} {
			if err := u.may(uid, fd, unix.R_OK); !errors.Is(err, want) {
				t.Errorf("user %d: %v, want %v", uid, err, want)
			}
		}
		u.close()
		if _, err := os.ReadFile(secret); err != nil { // by whatever thread this is
			t.Fatal(err)
		}
	}
	if after := state(); before != after {
		t.Errorf("of this process: %s, was %s", after, before)
	}
	deadline := time.Now().Add(10 * time.Second)
	for threads() > start+20 {
		if time.Now().After(deadline) {
			t.Fatalf("%d threads, there were %d", threads(), start)
		}
		runtime.Gosched()
	}
}
