package runc

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// Default is the name of the binary if a handler has none of its own (containerd: go-runc, DefaultCommand).
const Default = "runc"

// checkTimeout is the patience with a binary that hangs.
const checkTimeout = 30 * time.Second

// Binaries are the node's runc binaries. The version of each is asked for once, and again when the file has changed.
type Binaries struct {
	// Path is the shim's PATH.
	Path string

	mu    sync.Mutex
	known map[string]*binary
}

type binary struct {
	info    fs.FileInfo
	changed syscall.Timespec
	version Version
}

// Find returns the file that the shim starts for the BinaryName of a handler's options: a path as it is, a name from
// PATH. The error is of class errdefs.ErrFailedPrecondition.
func (b *Binaries) Find(name string) (string, error) {
	if name == "" {
		name = Default
	}
	if strings.Contains(name, "/") {
		if _, err := exec.LookPath(name); err != nil {
			return "", fmt.Errorf("runc %s: %w: install it, or correct BinaryName of the runtime handler: %w", name, err,
				errdefs.ErrFailedPrecondition)
		}
		return name, nil
	}
	for _, dir := range filepath.SplitList(b.Path) {
		if !filepath.IsAbs(dir) {
			continue // passed over by os/exec, too
		}
		if file, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return file, nil
		}
	}
	return "", fmt.Errorf("no %s in PATH %q: install runc %s: %w", name, b.Path, Needed, errdefs.ErrFailedPrecondition)
}

// Version returns the version of the binary that a handler's BinaryName means. The error, for one that is not there,
// says none or is too old to restore with as well, is of class errdefs.ErrFailedPrecondition, and names the file. If
// the context ends it is the context's.
func (b *Binaries) Version(ctx context.Context, name string) (file string, v Version, err error) {
	if file, err = b.Find(name); err != nil {
		return "", Version{}, err
	}
	if v, err = b.version(ctx, file); err != nil {
		return file, Version{}, err
	}
	if !v.Usable() {
		return file, v, fmt.Errorf("%s is runc %s, with which a link in a root file system can bring a container another "+
			"directory of the node (CVE-2026-119101): install runc %s: %w",
			file, v, Needed, errdefs.ErrFailedPrecondition)
	}
	return file, v, nil
}

func (b *Binaries) version(ctx context.Context, file string) (Version, error) {
	info, err := os.Stat(file)
	if err != nil {
		return Version{}, fmt.Errorf("runc: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	now := &binary{info: info}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		now.changed = st.Ctim
	}
	b.mu.Lock()
	before := b.known[file]
	b.mu.Unlock()
	if before != nil && os.SameFile(before.info, info) && before.info.Size() == info.Size() &&
		before.changed == now.changed {
		return before.version, nil
	}
	limited, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	cmd := exec.CommandContext(limited, file, "--version")
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if ctx.Err() != nil {
		return Version{}, fmt.Errorf("%s --version did not finish: %w", file, ctx.Err())
	}
	if err != nil {
		return Version{}, fmt.Errorf("%s --version: %w: %w", file, err, errdefs.ErrFailedPrecondition)
	}
	if now.version, err = parseVersion(out); err != nil {
		return Version{}, fmt.Errorf("%s --version: %w", file, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil {
		b.known = map[string]*binary{}
	}
	b.known[file] = now
	return now.version, nil
}
