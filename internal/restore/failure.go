package restore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/regular"
)

const (
	// logFile is the name runc gives CRIU's log (runc: libcontainer/criu_linux.go).
	logFile = "restore.log"

	// maxErrorLines and maxErrorBytes bound what a CRI error repeats of the log.
	maxErrorLines = 8
	maxErrorBytes = 2048

	// maxKeptLogBytes bounds a kept log; CRIU writes hundreds of bytes a page map
	// entry and thread.
	maxKeptLogBytes = 64 << 20
)

// Failure is a restore that CRIU or runc gave up. It carries their own words,
// which the work directory holds only until the clean-up.
type Failure struct {
	// Container is the ID of the container.
	Container string
	// Lines are CRIU's own error lines, at most eight.
	Lines []string
	// Log is where the whole log was kept, empty if it was not.
	Log string
	// Err is what the runtime said.
	Err error
}

func (f *Failure) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "restore of container %s failed: %v", f.Container, f.Err)
	if len(f.Lines) > 0 {
		fmt.Fprintf(&b, "; CRIU says: %s", strings.Join(f.Lines, " | "))
	}
	if f.Log != "" {
		fmt.Fprintf(&b, "; the whole log is %s", f.Log)
	}
	return b.String()
}

func (f *Failure) Unwrap() error { return f.Err }

// LogKeeper keeps the logs of failed restores.
type LogKeeper struct {
	// Dir is the directory, made when needed. Empty: no log is kept.
	Dir string
	// Max is how many logs are kept. The oldest goes first.
	Max int
}

// Explain turns the runtime's error into a Failure, reading CRIU's log in the
// work directory before that is deleted.
func (k LogKeeper) Explain(ctx context.Context, container, work string, err error) error {
	// The task service's errors are gRPC's; its text is what counts here.
	f := &Failure{Container: container, Err: errgrpc.ToNative(err)}
	file := filepath.Join(work, logFile)
	var lerr error
	if f.Lines, lerr = criu.ErrorLines(file, maxErrorLines, maxErrorBytes); lerr != nil &&
		!errors.Is(lerr, os.ErrNotExist) {
		log.G(ctx).WithError(lerr).Warn("cannot read CRIU's log of a failed restore")
	}
	if f.Log, lerr = k.keep(file, container); lerr != nil {
		log.G(ctx).WithError(lerr).Warn("cannot keep CRIU's log of a failed restore")
	}
	return f
}

// keep copies the log and returns the copy's path, empty if there is no log.
func (k LogKeeper) keep(log, container string) (_ string, err error) {
	if k.Dir == "" || k.Max <= 0 {
		return "", nil
	}
	src, _, err := regular.Open(log)
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w", log, err)
	}
	defer src.Close()
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return "", err
	}
	kept := filepath.Join(k.Dir, container+"-"+logFile)
	dst, err := os.OpenFile(kept, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	if _, err := io.Copy(dst, io.LimitReader(src, maxKeptLogBytes)); err != nil {
		return "", errors.Join(err, os.Remove(kept))
	}
	return kept, k.prune()
}

// prune removes the oldest logs beyond Max.
func (k LogKeeper) prune() error {
	entries, err := os.ReadDir(k.Dir)
	if err != nil {
		return err
	}
	var logs []os.FileInfo
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && strings.HasSuffix(e.Name(), "-"+logFile) {
			logs = append(logs, info)
		}
	}
	slices.SortFunc(logs, func(a, b os.FileInfo) int {
		return cmp.Or(b.ModTime().Compare(a.ModTime()), strings.Compare(a.Name(), b.Name()))
	})
	var errs []error
	for i := k.Max; i < len(logs); i++ {
		errs = append(errs, os.Remove(filepath.Join(k.Dir, logs[i].Name())))
	}
	return errors.Join(errs...)
}
