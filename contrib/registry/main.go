// Command registry is an OCI image registry on the loopback interface, for the demo
// and for trying things out. It keeps everything in memory and is gone when it
// ends. It is no registry for production.
package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/urfave/cli/v3"
	"golang.org/x/sys/unix"
)

func command() *cli.Command {
	return &cli.Command{
		Name:  "registry",
		Usage: "serve container images from memory on the loopback interface until SIGTERM",
		// Folder names and passwords may hold commas.
		DisableSliceFlagSeparator: true,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:0", Usage: "`ADDRESS` to listen on; port 0 takes a free one"},
			&cli.StringFlag{Name: "port-file", Usage: "`FILE` that gets the address (host:port) once all images are served"},
			&cli.StringSliceFlag{Name: "load", Usage: "`DIR=NAME:TAG`: serve the image of an OCI image layout under that " +
				"name; may be repeated"},
			&cli.StringFlag{Name: "require-auth", Usage: "`USER:PASSWORD` that every request must carry (basic authentication)"},
			&cli.DurationFlag{Name: "delay", Usage: "`DURATION` to wait before each download of a blob"},
		},
		Action: serve,
	}
}

func serve(ctx context.Context, cmd *cli.Command) error {
	if cmd.Args().Present() {
		return fmt.Errorf("unexpected argument %q: see registry --help", cmd.Args().First())
	}
	auth := authn.Anonymous
	user, password, wantAuth := strings.Cut(cmd.String("require-auth"), ":")
	if cmd.IsSet("require-auth") {
		if !wantAuth || user == "" {
			return fmt.Errorf("--require-auth %q: want USER:PASSWORD", cmd.String("require-auth"))
		}
		auth = &authn.Basic{Username: user, Password: password}
	}

	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cmd.String("listen"))
	if err != nil {
		return fmt.Errorf("--listen %s: %w", cmd.String("listen"), err)
	}
	server := &http.Server{
		Handler: handler(options{user: user, password: password, delay: cmd.Duration("delay"),
			log: cmd.Root().ErrWriter}),
		ReadHeaderTimeout: time.Minute,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	defer server.Close()

	address := listener.Addr().String()
	for _, entry := range cmd.StringSlice("load") {
		if err := load(ctx, address, entry, auth); err != nil {
			return err
		}
	}
	if err := writePort(cmd.String("port-file"), address); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case err := <-ended:
		return fmt.Errorf("serve on %s: %w", address, err)
	}
}

// writePort writes the address in one step, so that whoever waits for the file
// never reads half of it.
func writePort(name, address string) error {
	if name == "" {
		return nil
	}
	temp, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("--port-file: %w", err)
	}
	_, err = fmt.Fprintln(temp, address)
	if closeErr := temp.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temp.Name(), name)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
		return fmt.Errorf("--port-file %s: %w", name, err)
	}
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	err := command().Run(ctx, os.Args)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "registry:", err)
		os.Exit(1)
	}
}
