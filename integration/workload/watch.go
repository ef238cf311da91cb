package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

func init() { modes["key"] = key }

// key watches a key of a volume as kubelet makes it, holds it open and has its directory as its working directory. In
// every line it says what the open file begins with, what is read by the relative name, and how many events there were.
func key(args []string) error {
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return err
	}
	if _, err := unix.InotifyAddWatch(watch, args[0], unix.IN_ATTRIB|unix.IN_MODIFY); err != nil {
		return err
	}
	open, err := os.Open(args[0])
	if err != nil {
		return err
	}
	resolved, err := filepath.EvalSymlinks(args[0])
	if err != nil {
		return err
	}
	if err := os.Chdir(filepath.Dir(resolved)); err != nil {
		return err
	}
	events := 0
	return every(func(int) (string, error) {
		content := make([]byte, 5)
		if _, err := open.ReadAt(content, 0); err != nil {
			return "", err
		}
		named, err := os.ReadFile(filepath.Base(args[0]))
		if err != nil {
			return "", err
		}
		for {
			n, err := unix.Read(watch, make([]byte, 4096))
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil {
				return "", err
			}
			events += n / unix.SizeofInotifyEvent
		}
		return fmt.Sprintf("open %s, named %.5s, events %d", content, named, events), nil
	})
}
