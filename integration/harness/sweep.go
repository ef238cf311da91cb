package harness

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// claim marks a node's folder as owned by this process for as long as it lives. The
// lock is taken before the file has its name, so that no sweep sees it unlocked.
func claim(dir string) (*os.File, error) {
	name := filepath.Join(dir, "owner")
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, os.Rename(name+".new", name)
}

var sweepDone sync.Once

// sweepOnce sweeps once per test process.
func sweepOnce(t testing.TB) {
	t.Helper()
	sweepDone.Do(func() {
		if os.Getenv(envKeep) == "" {
			sweep(t)
		}
	})
}

// sweep removes the nodes of test processes that were killed before they could clean
// up. It touches only folders with an owner file that nobody locks.
func sweep(t testing.TB) {
	t.Helper()
	owners, err := filepath.Glob(filepath.Join(os.TempDir(), tempPattern, "owner"))
	if err != nil {
		t.Fatalf("harness: sweep: %v", err)
	}
	for _, name := range owners {
		f, err := os.Open(name)
		if err != nil {
			continue // gone since
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			dir := filepath.Dir(name)
			t.Logf("harness: sweep %s, whose test process is dead", dir)
			if err := errors.Join(reap(dir, filepath.Base(dir)), removeTree(dir)); err != nil {
				t.Logf("harness: sweep: %v", err)
			}
		}
		_ = f.Close()
	}
}
