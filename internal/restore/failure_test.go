package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const criuLog = "(00.1) Warn  (x.c:1): odd\n(00.2) pie: 7: Error (criu/mount.c:42): No mapping for 12:(null) " +
	"mountpoint\n(00.3) Error (criu/cr-restore.c:1): Restoring FAILED.\n"

var errRunc = status.Error(codes.Internal, "runc: criu failed: type NOTIFY errno 0")

func TestExplain(t *testing.T) {
	work, dir := t.TempDir(), filepath.Join(t.TempDir(), "a", "failed")
	write(t, work, map[string]string{logFile: criuLog})
	err := LogKeeper{Dir: dir, Max: 3}.Explain(t.Context(), "c1", work, errRunc)
	kept := filepath.Join(dir, "c1-restore.log")
	var f *Failure
	if !errors.As(err, &f) || f.Container != "c1" || f.Log != kept || len(f.Lines) != 2 {
		t.Fatalf("%+v", f)
	}
	wantError(t, err, errdefs.IsInternal, "container c1", "type NOTIFY",
		"Error (criu/mount.c:42): No mapping for 12:(null) mountpoint", "Restoring FAILED", kept)
	if strings.Contains(err.Error(), "rpc error") || strings.Contains(err.Error(), "odd") ||
		strings.Contains(err.Error(), "\n") {
		t.Errorf("%v", err)
	}
	if data, err := os.ReadFile(kept); err != nil || string(data) != criuLog {
		t.Errorf("kept %q, %v", data, err)
	}
	for name, mode := range map[string]os.FileMode{kept: 0o600, dir: 0o700} {
		fi, err := os.Stat(name)
		check(t, err)
		if fi.Mode().Perm() != mode {
			t.Errorf("%s: mode %o", name, fi.Mode().Perm())
		}
	}
}

func TestExplainWithoutLog(t *testing.T) {
	for name, arrange := range map[string]func(t *testing.T, file string){
		"none": func(*testing.T, string) {},
		"directory": func(t *testing.T, file string) {
			check(t, os.Mkdir(file, 0o700))
		},
		"symlink": func(t *testing.T, file string) {
			secret := filepath.Join(t.TempDir(), "secret")
			check(t, os.WriteFile(secret, []byte("Error (secret"), 0o600))
			check(t, os.Symlink(secret, file))
		},
		"FIFO": func(t *testing.T, file string) { check(t, unix.Mkfifo(file, 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			work, dir := t.TempDir(), t.TempDir()
			arrange(t, filepath.Join(work, logFile))
			err := LogKeeper{Dir: dir, Max: 3}.Explain(t.Context(), "c1", work, errRunc)
			wantError(t, err, errdefs.IsInternal, "type NOTIFY")
			if strings.Contains(err.Error(), "CRIU says") || strings.Contains(err.Error(), "secret") {
				t.Errorf("%v", err)
			}
			if left := names(t, dir); len(left) > 0 {
				t.Errorf("kept %q", left)
			}
		})
	}
	err := LogKeeper{}.Explain(t.Context(), "c1", filepath.Join(t.TempDir(), "absent"), errRunc)
	wantError(t, err, errdefs.IsInternal, "type NOTIFY")
}

func TestExplainIsBounded(t *testing.T) {
	work := t.TempDir()
	var log strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&log, "(00.1) Error (x.c:%d): %s\n", i, strings.Repeat("y", 900))
	}
	write(t, work, map[string]string{logFile: log.String()})
	err := LogKeeper{}.Explain(t.Context(), "c1", work, errRunc)
	if n := len(err.Error()); n > 3*maxErrorBytes || !strings.Contains(err.Error(), "y") {
		t.Errorf("%d bytes", n)
	}
}

func TestKeepNothing(t *testing.T) {
	work, dir := t.TempDir(), filepath.Join(t.TempDir(), "failed")
	write(t, work, map[string]string{logFile: criuLog})
	for name, k := range map[string]LogKeeper{"no directory": {Max: 3}, "none of them": {Dir: dir},
		"less than none": {Dir: dir, Max: -1}} {
		err := k.Explain(t.Context(), "c1", work, errRunc)
		wantError(t, err, errdefs.IsInternal, "No mapping for")
		if strings.Contains(err.Error(), "the whole log") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	// A directory that cannot be made is told in containerd's log only.
	write(t, work, map[string]string{"file": ""})
	err := LogKeeper{Dir: filepath.Join(work, "file", "x"), Max: 3}.Explain(t.Context(), "c1", work, errRunc)
	wantError(t, err, errdefs.IsInternal, "No mapping for")
}

func TestOldestLogsGo(t *testing.T) {
	work, dir := t.TempDir(), t.TempDir()
	write(t, work, map[string]string{logFile: criuLog})
	write(t, dir, map[string]string{"notes.txt": "the operator's", "d-restore.log/x": "a directory"})
	k := LogKeeper{Dir: dir, Max: 2}
	for i, id := range []string{"c3", "c1", "c2", "c1"} {
		if err := k.Explain(t.Context(), id, work, errRunc); !strings.Contains(err.Error(), id+"-restore.log") {
			t.Errorf("%v", err)
		}
		// The clock of the file system may be coarser than this loop.
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		check(t, os.Chtimes(filepath.Join(dir, id+"-restore.log"), at, at))
	}
	want := []string{"c1-restore.log", "c2-restore.log", "d-restore.log", "d-restore.log/x", "notes.txt"}
	if got := names(t, dir); !slices.Equal(got, want) {
		t.Errorf("kept %q", got)
	}
}

// What the operator or somebody else has put there is not written through.
func TestKeptLogIsNoLink(t *testing.T) {
	work, dir := t.TempDir(), t.TempDir()
	write(t, work, map[string]string{logFile: criuLog, "victim": "kept"})
	check(t, os.Symlink(filepath.Join(work, "victim"), filepath.Join(dir, "c1-restore.log")))
	err := LogKeeper{Dir: dir, Max: 2}.Explain(t.Context(), "c1", work, errRunc)
	if strings.Contains(err.Error(), "the whole log") {
		t.Errorf("%v", err)
	}
	if data, err := os.ReadFile(filepath.Join(work, "victim")); err != nil || string(data) != "kept" {
		t.Errorf("%q, %v", data, err)
	}
}
