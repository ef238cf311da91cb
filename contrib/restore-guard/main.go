// Command restore-guard is what CRIU executes while it restores a container for containerd's restore plugin, which
// finds it beside containerd; it is of no use by itself. See internal/guard.
package main

import (
	"fmt"
	"os"
	"runtime/debug"

	"github.com/cri-restore/cri-restore/internal/guard"
)

func main() {
	debug.SetGCPercent(-1) // it ends before there is anything to collect
	if err := guard.Run(os.Args[0], os.Getenv); err != nil {
		// In the form of CRIU's own errors, in whose log it ends up.
		fmt.Fprintf(os.Stderr, "Error (%s): %v\n", guard.Program, err)
		os.Exit(1)
	}
}
