package guard

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lookAtMappings looks where the files are that a process has mapped. A file of which another mapping with as many rights is known to be in
// a mount of the container gives it nothing more.
func (i *inspection) lookAtMappings(p process) error {
	return lines(p.path("maps"), func(line []byte) error {
		// address perms offset dev inode path (proc_pid_maps(5))
		var field [5][]byte
		rest := line
		for n := range field {
			field[n], rest, _ = bytes.Cut(rest, []byte(" "))
		}
		if len(field[1]) != 4 || len(field[4]) == 0 {
			return fmt.Errorf("mappings of process %d: %q is none", p.pid, line)
		}
		if string(field[4]) == "0" {
			return nil // of no file
		}
		key := string(field[3]) + " " + string(field[4])
		if field[1][2] == 'x' {
			key += "x"
		}
		shared := field[1][3] == 's' // it may be made writable later, where the file was opened so
		if _, known := i.mapped.Load(key); known && !shared {
			return nil
		}
		from, to, _ := strings.Cut(string(field[0]), "-")
		path := p.path("map_files/" + strings.TrimLeft(from, "0") + "-" + strings.TrimLeft(to, "0"))
		f, err := fileAt(path)
		if err != nil {
			return err
		}
		m, known := i.places.mounts[f.mount]
		switch name := string(bytes.TrimLeft(rest, " ")); {
		case m != nil:
			if err := i.lookAtAccess(p, "mapping "+string(field[0]), path, f, byLink); err != nil {
				return err
			}
		case known, f.null:
		case strings.HasPrefix(name, "/[aio]") && i.isRing(f.mount):
		default:
			i.add(Finding{"files", p.name, "mapping " + string(field[0]), fmt.Sprintf("%s in mount %d", name, f.mount), "a file in a mount of the container"})
			return nil
		}
		i.mapped.Store(key, true)
		return nil
	})
}

// isRing reports whether it is the mount of the rings of asynchronous I/O.
func (i *inspection) isRing(mount int) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.places.rings == 0 {
		i.places.rings, _ = ringMount()
	}
	return mount == i.places.rings
}

// ringMount makes a ring to see where it is.
func ringMount() (mount int, err error) {
	var ctx uintptr
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&ctx)), 0); errno != 0 { //nolint:gosec // the kernel fills it in
		return -1, errno
	}
	defer func() {
		if _, _, errno := unix.Syscall(unix.SYS_IO_DESTROY, ctx, 0, 0); errno != 0 {
			err = errors.Join(err, errno)
		}
	}()
	data, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return -1, err
	}
	for line := range bytes.Lines(data) {
		if bytes.Contains(line, []byte("/[aio]")) {
			address, _, _ := bytes.Cut(line, []byte(" "))
			ring, err := fileAt("/proc/self/map_files/" + string(address))
			return ring.mount, err
		}
	}
	return -1, errors.New("no ring")
}
