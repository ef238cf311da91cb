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
		var f [5][]byte
		rest := line
		for n := range f {
			f[n], rest, _ = bytes.Cut(rest, []byte(" "))
		}
		if len(f[1]) != 4 || len(f[4]) == 0 {
			return fmt.Errorf("mappings of process %d: %q is none", p.pid, line)
		}
		if string(f[4]) == "0" {
			return nil // of no file
		}
		key := string(f[3]) + " " + string(f[4])
		if f[1][3] == 's' {
			key += string(f[1]) // it may be made writable later, where the file was opened so
		} else if f[1][2] == 'x' {
			key += "x"
		}
		if _, known := i.mapped.Load(key); known {
			return nil
		}
		from, to, _ := strings.Cut(string(f[0]), "-")
		path := p.path("map_files/" + strings.TrimLeft(from, "0") + "-" + strings.TrimLeft(to, "0"))
		_, mount, null, err := fileAt(path)
		if err != nil {
			return err
		}
		switch name := string(bytes.TrimLeft(rest, " ")); {
		case i.places.ids[mount] || null:
		case strings.HasPrefix(name, "/[aio]") && i.isRing(mount):
		default:
			i.add(Finding{"files", p.name, "mapping " + string(f[0]), fmt.Sprintf("%s in mount %d", name, mount), "a file in a mount of the container"})
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
	if _, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&ctx)), 0); errno != 0 {
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
			_, mount, _, err = fileAt("/proc/self/map_files/" + string(address))
			return mount, err
		}
	}
	return -1, errors.New("no ring")
}
