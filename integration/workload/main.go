// Command workload is what the integration tests checkpoint and restore. Each
// mode holds state that only lives in the process, and prints a line with a
// growing number and "ok" as long as that state is right. A process that
// finds its state wrong says so and exits with 1.
package main

import (
	"fmt"
	"os"
	"time"
)

// tick is the time between two lines.
const tick = 200 * time.Millisecond

// mode is one kind of state.
type mode func(args []string) error

var modes = map[string]mode{
	"heap":      heap,
	"threads":   threads,
	"tree":      tree,
	"tree-end":  treeEnd,
	"deleted":   deleted,
	"listen":    listen,
	"locks":     locks,
	"grow":      grow,
	"trap":      trap,
	"exchanges": exchanges,
}

func main() {
	if len(os.Args) < 2 || modes[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "workload: unknown mode")
		os.Exit(2)
	}
	if err := modes[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Println("BAD", err)
		os.Exit(1)
	}
}

// every calls f once a tick with a growing number and prints what it returns.
func every(f func(n int) (string, error)) error {
	for n := 1; ; n++ {
		text, err := f(n)
		if err != nil {
			return err
		}
		fmt.Printf("ok %d %s\n", n, text)
		time.Sleep(tick)
	}
}
