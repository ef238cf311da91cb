// Command testimage writes the busybox image of the tests and the demo as an OCI
// image layout.
package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/urfave/cli/v3"

	"github.com/cri-restore/cri-restore/integration/testimage"
)

func command() *cli.Command {
	return &cli.Command{
		Name:      "testimage",
		Usage:     "write a busybox image as an OCI image layout and print its digest",
		ArgsUsage: "DIR",
		// Values may hold commas.
		DisableSliceFlagSeparator: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "name", Usage: "`REFERENCE` that an import into containerd gives the image"},
			&cli.StringFlag{Name: "busybox", Usage: "`FILE` of a statically linked busybox; the one on PATH if not given"},
			&cli.StringSliceFlag{Name: "file", Usage: "`PATH=CONTENT` of a further file in the image; may be repeated"},
			&cli.StringSliceFlag{Name: "env", Usage: "`NAME=VALUE` in the environment; may be repeated"},
			&cli.StringSliceFlag{Name: "cmd", Usage: "`WORD` of the command of containers that name none; may be repeated"},
			&cli.StringFlag{Name: "user", Usage: "`USER` of containers that name none, for instance app"},
		},
		Action: write,
	}
}

func write(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Len() != 1 {
		return fmt.Errorf("want one argument, the folder of the image layout, got %d: see testimage --help", cmd.Args().Len())
	}
	files := map[string]string{}
	for _, entry := range cmd.StringSlice("file") {
		path, content, ok := strings.Cut(entry, "=")
		if !ok {
			return fmt.Errorf("--file %q: want PATH=CONTENT", entry)
		}
		files[path] = content
	}
	image, err := testimage.New(ctx, testimage.Options{
		Busybox: cmd.String("busybox"),
		Files:   files,
		Env:     cmd.StringSlice("env"),
		Cmd:     cmd.StringSlice("cmd"),
		User:    cmd.String("user"),
	})
	if err != nil {
		return err
	}
	if err := testimage.WriteLayout(image, cmd.Args().First(), cmd.String("name")); err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(cmd.Root().Writer, digest)
	return err
}

func main() {
	if err := command().Run(context.Background(), os.Args); err != nil {
		fmt.Fprintln(os.Stderr, "testimage:", err)
		os.Exit(1)
	}
}
