package rights

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
		u, err := New(Holder{UID: 1000, GID: 1000, Groups: []uint32{7}})
		if err != nil {
			t.Fatal(err)
		}
		for uid, want := range map[uint32]error{1000: unix.EACCES, 0: nil, 1001: unix.EACCES} {
			if err := u.may(uid, fd, unix.R_OK); !errors.Is(err, want) {
				t.Errorf("user %d: %v, want %v", uid, err, want)
			}
		}
		u.Close()
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

// TestMay: what the user can do to be allowed counts.
func TestMay(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, mode os.FileMode, uid int) string {
		name = filepath.Join(dir, name)
		if err := errors.Join(os.WriteFile(name, nil, 0o600), os.Chown(name, uid, uid), os.Chmod(name, mode)); err != nil {
			t.Fatal(err)
		}
		return name
	}
	secret, all, own, other := file("secret", 0o600, 0), file("all", 0o644, 0), file("own", 0o000, 1000), file("other", 0o600, 7)
	if err := os.Symlink("all", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	user := Holder{UID: 1000, GID: 1000}
	with := func(change func(*Holder)) Holder { h := user; change(&h); return h }
	for name, c := range map[string]struct {
		holder   Holder
		file     string
		readOnly bool
		mode     uint32
		want     error
	}{
		"secret":                 {user, secret, false, unix.R_OK, os.ErrPermission},
		"read":                   {user, all, false, unix.R_OK, nil},
		"write":                  {user, all, false, unix.W_OK, os.ErrPermission},
		"own":                    {user, own, false, unix.R_OK, nil},
		"own, read-only":         {user, own, true, unix.R_OK, os.ErrPermission},
		"reads all":              {with(func(h *Holder) { h.ReadSearch = true }), secret, false, unix.R_OK, nil},
		"reads all, writes":      {with(func(h *Holder) { h.ReadSearch = true }), secret, false, unix.W_OK, os.ErrPermission},
		"can be anybody":         {with(func(h *Holder) { h.AnyUser = true }), other, false, unix.W_OK, nil},
		"can take it":            {with(func(h *Holder) { h.AnyOwner = true }), other, false, unix.W_OK, nil},
		"can take it, read-only": {with(func(h *Holder) { h.AnyOwner = true }), other, true, unix.W_OK, os.ErrPermission},
		"link":                   {user, filepath.Join(dir, "link"), false, unix.R_OK, ErrLink},
		"link by its name":       {user, filepath.Join(dir, "link"), false, 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := New(c.holder)
			if err != nil {
				t.Fatal(err)
			}
			defer u.Close()
			fd, err := unix.Open(c.file, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			f := os.NewFile(uintptr(fd), c.file)
			defer f.Close()
			if err := u.May(f, c.readOnly, c.mode); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}
