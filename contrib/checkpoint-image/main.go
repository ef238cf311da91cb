// Command checkpoint-image makes a checkpoint image from a checkpoint archive of
// containerd, CRI-O or Podman: in an OCI image layout, as an oci-archive, or
// straight in a running containerd. Or it lets a containerd of ours checkpoint a running container into one.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/urfave/cli/v3"

	"github.com/cri-restore/cri-restore/internal/image"
	"github.com/cri-restore/cri-restore/internal/upstream"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	_ = log.SetLevel("error") // of containerd's packages
	app := &cli.Command{
		Name:         "checkpoint-image",
		Usage:        "make an OCI image from a container checkpoint",
		ArgsUsage:    "ARCHIVE | --container ID",
		Action:       run,
		OnUsageError: func(_ context.Context, _ *cli.Command, err error, _ bool) error { return err },
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Required: true, Usage: "`NAME` of the image, with a tag"},
			&cli.StringFlag{Name: "container", Usage: "checkpoint the running container `ID`; the image stays in its " +
				"containerd, which needs allow_checkpoint_images"},
			&cli.DurationFlag{Name: "timeout", Usage: "give up a checkpoint of a container after this time, in whole seconds " +
				"(default: none)"},
			&cli.StringFlag{Name: "compression", Value: string(image.Zstd), Usage: "of the layer: zstd, gzip or none"},
			&cli.StringFlag{Name: "platform", Usage: "`PLATFORM` on which the process ran, as in linux/arm64 (default: this " +
				"machine's)"},
			&cli.StringFlag{Name: "temp-dir", Usage: "unpack the archive in `DIR` meanwhile (default: beside the layout or " +
				"archive, else $TMPDIR)"},
			&cli.StringFlag{Name: "namespace", Value: upstream.Namespace, Usage: "containerd's `NAMESPACE` for the image"},
			&cli.StringFlag{Name: "snapshotter", Usage: "containerd's `SNAPSHOTTER` to unpack the image in (default: " +
				"containerd's default)"},
		},
		MutuallyExclusiveFlags: []cli.MutuallyExclusiveFlags{{Required: true, Flags: [][]cli.Flag{
			{&cli.StringFlag{Name: "layout", Usage: "add the image to the OCI image layout `DIR`, which is created if absent"}},
			{&cli.StringFlag{Name: "oci-archive", Usage: "write the image to `FILE`, a tar of an OCI image layout"}},
			{&cli.StringFlag{Name: "containerd", Usage: "put the image into the containerd that listens on the socket " +
				"`ADDRESS`"}},
		}}},
	}
	if err := app.Run(ctx, os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "checkpoint-image:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c *cli.Command) error {
	name, err := image.NormalName(c.String("name"))
	if err != nil {
		return err
	}
	var desc ocispec.Descriptor
	if c.IsSet("container") {
		desc, err = checkpoint(ctx, c, name)
	} else {
		desc, err = build(ctx, c, name)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(c.Root().Writer, name, desc.Digest)
	return err
}

// build makes the image from an archive.
func build(ctx context.Context, c *cli.Command, name string) (ocispec.Descriptor, error) {
	none := ocispec.Descriptor{}
	if c.NArg() != 1 {
		return none, fmt.Errorf("give one checkpoint archive, not %d", c.NArg())
	}
	archive, err := filepath.EvalSymlinks(c.Args().First()) // package checkpoint follows no link
	if err != nil {
		return none, err
	}
	o := image.BuildOptions{TempDir: c.String("temp-dir")}
	if o.Compression, err = image.ParseCompression(c.String("compression")); err != nil {
		return none, err
	}
	if platform := c.String("platform"); platform != "" {
		if o.Platform, err = platforms.Parse(platform); err != nil {
			return none, err
		}
	}
	switch {
	case c.IsSet("layout"):
		return image.BuildLayout(ctx, c.String("layout"), name, archive, o)
	case c.IsSet("oci-archive"):
		return image.BuildArchive(ctx, c.String("oci-archive"), name, archive, o)
	default:
		return publish(ctx, c, name, archive, o)
	}
}

func publish(ctx context.Context, c *cli.Command, name, archive string, o image.BuildOptions) (ocispec.Descriptor,
	error) {
	client, err := containerd.New(c.String("containerd"))
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer client.Close()
	ctx = namespaces.WithNamespace(ctx, c.String("namespace"))
	return image.Publish(ctx, client, c.String("snapshotter"), name, archive, o)
}
