// Command restore-pages supervises the page server of a lazy restore. containerd's restore plugin starts it, and
// finds it beside containerd; it is of no use by itself. See internal/pageserver.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/cri-restore/cri-restore/internal/pageserver"
)

func main() {
	var c pageserver.Config
	flag.StringVar(&c.Container, "container", "", "ID of the container")
	flag.StringVar(&c.CRIU, "criu", "", "path of criu")
	flag.StringVar(&c.Images, "images", "", "directory with CRIU's images")
	flag.StringVar(&c.Work, "work", "", "CRIU's work directory")
	flag.Parse()
	if c.Container == "" || c.CRIU == "" || c.Images == "" || c.Work == "" || flag.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "restore-pages is started by containerd's restore plugin, with all of its flags")
		os.Exit(2)
	}
	// The plugin's end of a pipe, on which the server says that it is ready.
	if err := pageserver.Supervise(c, os.NewFile(3, "notify")); err != nil {
		fmt.Fprintln(os.Stderr, "restore-pages:", err)
		os.Exit(1)
	}
}
