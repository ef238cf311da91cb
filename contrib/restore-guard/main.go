// Command restore-guard is what CRIU executes while it restores a container for containerd's restore plugin, which
// finds it beside containerd; it is of no use by itself. See internal/guard.
package main

import (
	"fmt"
	"os"

	"github.com/cri-restore/cri-restore/internal/guard"
)

func main() {
	if err := guard.Run(os.Args[0], os.Getenv); err != nil {
		// In the form of CRIU's own errors, in whose log it ends up.
		fmt.Fprintf(os.Stderr, "Error (%s): %v\n", guard.Program, err)
		os.Exit(1)
	}
}
