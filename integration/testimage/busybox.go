package testimage

import (
	"context"
	"debug/elf"
	"fmt"
	"os/exec"
	"slices"
	"strings"
)

// requireStatic fails for a busybox that needs a loader: the image has no libraries.
func requireStatic(name string) error {
	file, err := elf.Open(name)
	if err != nil {
		return fmt.Errorf("busybox %s: %w", name, err)
	}
	defer file.Close()
	if slices.ContainsFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		return fmt.Errorf("busybox %s is dynamically linked, and the image has no libraries: install the package "+
			"busybox-static (make deps does)", name)
	}
	return nil
}

// listApplets asks busybox for the commands that it is, sorted and without itself.
func listApplets(ctx context.Context, name string) ([]string, error) {
	out, err := exec.CommandContext(ctx, name, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("%s --list: %w", name, err)
	}
	applets := slices.DeleteFunc(strings.Fields(string(out)), func(a string) bool { return a == "busybox" })
	slices.Sort(applets)
	return slices.Compact(applets), nil
}
