// Package podnet is the network of a pod, as seen from within its network namespace.
package podnet

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/namespace"
)

// multipath is the sysctl that says whether sockets of Multipath TCP can be made. Each network namespace has one of its
// own.
const multipath = "/proc/sys/net/mptcp/enabled"

// TurnOffMultipath makes the kernel refuse Multipath TCP in the network namespace at path. A program that asks for a
// socket of it gets ENOPROTOOPT and takes one of plain TCP, as it does on kernels without it (Linux:
// Documentation/networking/mptcp.rst). Where the kernel has none there is nothing to do.
func TurnOffMultipath(path string) error {
	return namespace.Within(path, unix.CLONE_NEWNET, func() error {
		f, err := os.OpenFile(multipath, os.O_WRONLY, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		_, err = f.WriteString("0")
		return errors.Join(err, f.Close())
	})
}
