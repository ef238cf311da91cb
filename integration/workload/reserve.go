package main

import (
	"fmt"
	"syscall"
)

func init() { modes["reserve"] = reserve }

// reserve is pages, beside far more address space than there is memory, which it reserves as databases and garbage
// collectors do: "counted" by the kernel as soon as it may be written to, or "uncounted".
func reserve(args []string) error {
	flags := map[string]int{"counted": 0, "uncounted": syscall.MAP_NORESERVE}
	const size = 8 << 40
	if _, err := syscall.Mmap(-1, 0, size, syscall.PROT_NONE,
		syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS|flags[args[0]]); err != nil {
		return fmt.Errorf("reserve: %w", err)
	}
	return pages(args[1:])
}
