package restore

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
)

const (
	// warmStep is how much is asked for at once, in bytes.
	warmStep = 8 << 20
	// warmShare is the part of the memory that the node has to spare that may be filled so.
	warmShare = 4
)

// Warm asks the kernel to read the pages of a checkpoint into its cache, so that they are there when
// CRIU needs them. It reads no more than a quarter of the memory that is available, returns when it has asked for all,
// and ends with the context. What cannot be read CRIU will say.
func Warm(ctx context.Context, dir string) error {
	images, err := criu.OpenImages(dir)
	if err != nil {
		return err
	}
	defer images.Close()
	budget, err := availableMemory()
	if err != nil {
		return err
	}
	budget /= warmShare
	for _, name := range images.Names() {
		if !strings.HasPrefix(name, "pages-") {
			continue
		}
		size, _ := images.Size(name)
		f, err := images.Open(name)
		if err != nil {
			return err
		}
		file, ok := f.(*os.File)
		for at := int64(0); ok && at < size && budget > 0 && ctx.Err() == nil; at += warmStep {
			n := min(warmStep, size-at, budget)
			if err := unix.Fadvise(int(file.Fd()), at, n, unix.FADV_WILLNEED); err != nil {
				f.Close()
				return fmt.Errorf("CRIU image %s: %w", name, err)
			}
			budget -= n
		}
		f.Close()
	}
	return ctx.Err()
}

// availableMemory is what the kernel thinks can be had without swapping, in bytes (proc_meminfo(5)).
func availableMemory() (int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if text, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(text), " kB"), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("/proc/meminfo: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("/proc/meminfo: no MemAvailable")
}
