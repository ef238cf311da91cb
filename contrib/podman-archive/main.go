// Command podman-archive turns a checkpoint archive of containerd into one that
// "podman container restore --import" accepts.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/containerd/log"
	"github.com/urfave/cli/v3"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/verify"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	_ = log.SetLevel("error") // of containerd's packages
	app := &cli.Command{
		Name:         "podman-archive",
		Usage:        "turn a checkpoint archive of containerd into one for Podman",
		ArgsUsage:    "ARCHIVE NEW",
		Action:       run,
		OnUsageError: func(_ context.Context, _ *cli.Command, err error, _ bool) error { return err },
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "runtime", Value: "runc", Usage: "Podman's `NAME` of the runtime that will restore"},
			&cli.StringSliceFlag{Name: "volume", Usage: "mount the directory or file of the node at the container's path, " +
				"`NODE:CONTAINER`, once for each volume of the container"},
		},
	}
	if err := app.Run(ctx, os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "podman-archive:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c *cli.Command) (err error) {
	if c.NArg() != 2 {
		return fmt.Errorf("give a checkpoint archive and the name of the new one, not %d arguments", c.NArg())
	}
	o := checkpoint.PodmanOptions{Runtime: c.String("runtime"), Volumes: map[string]string{}}
	for _, v := range c.StringSlice("volume") {
		node, container, ok := strings.Cut(v, ":")
		if !ok || !filepath.IsAbs(node) || !filepath.IsAbs(container) {
			return fmt.Errorf("volume %q is not two absolute paths, as in /srv/data:/data", v)
		}
		o.Volumes[filepath.Clean(container)] = node
	}
	archive, err := filepath.EvalSymlinks(c.Args().First()) // package checkpoint follows no link
	if err == nil {
		archive, err = filepath.Abs(archive)
	}
	if err != nil {
		return err
	}
	target, err := filepath.Abs(c.Args().Get(1))
	if err != nil {
		return err
	}
	// Beside the result, where there has to be space anyway.
	dir, err := os.MkdirTemp(filepath.Dir(target), ".podman-archive-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	o.TempDir = dir
	unpacked := filepath.Join(dir, "checkpoint")
	if err := os.Mkdir(unpacked, 0o700); err != nil {
		return err
	}
	if err := checkpoint.Unpack(ctx, archive, unpacked, checkpoint.DefaultLimits()); err != nil {
		return err
	}
	ck, err := checkpoint.Open(unpacked, checkpoint.DefaultLimits())
	if err != nil {
		return fmt.Errorf("checkpoint archive %s: %w", archive, err)
	}
	defer ck.Close()
	if o.RootMode, err = rootMode(ck); err != nil {
		return fmt.Errorf("checkpoint archive %s: %w", archive, err)
	}
	written := filepath.Join(dir, "archive")
	if err := write(ctx, ck, written, o); err != nil {
		return fmt.Errorf("checkpoint archive %s: %w", archive, err)
	}
	// A link and not a rename: what is there already stays.
	return os.Link(written, target)
}

func write(ctx context.Context, ck *checkpoint.Checkpoint, name string, o checkpoint.PodmanOptions) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err = ck.WritePodman(ctx, w, o); err == nil {
		err = errors.Join(w.Flush(), f.Sync())
	}
	return errors.Join(err, f.Close())
}

// rootMode is the mode that "/" had.
func rootMode(ck *checkpoint.Checkpoint) (uint32, error) {
	images, err := criu.OpenImages(ck.ImagesDir())
	if err != nil {
		return 0, err
	}
	defer images.Close()
	modes, err := verify.Directories(images)
	if err != nil {
		return 0, err
	}
	if mode, ok := modes["/"]; ok {
		return mode, nil
	}
	return 0o755, nil
}
