package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/rights"
)

const user = 1000 // of the pod

// ownedTree makes files of the pod's user and of root in the container's root.
func (w *world) ownedTree() {
	w.t.Helper()
	w.mount("", "tmpfs", 0)
	w.enter()
	w.inside(func() error {
		var errs []error
		for _, f := range []struct {
			name string
			mode uint32
			uid  int
		}{
			{"/", unix.S_IFDIR | 0o777, 0}, {"/own", 0o600, user}, {"/secret", 0o600, 0}, {"/all", 0o644, 0}, {"/run", 0o711, 0},
			{"/closed", unix.S_IFDIR | 0o700, 0}, {"/closed/all", 0o644, 0},
			{"/closed/empty", unix.S_IFDIR | 0o700, 0}, {"/empty", unix.S_IFDIR | 0o700, 0}, {"/fifo", unix.S_IFIFO | 0o600, 0},
			{"/mine", unix.S_IFDIR | 0o700, user}, {"/mine/all", 0o644, 0},
		} {
			switch f.mode & unix.S_IFMT {
			case unix.S_IFDIR:
				errs = append(errs, os.MkdirAll(f.name, 0o700))
			case unix.S_IFIFO:
				errs = append(errs, unix.Mkfifo(f.name, 0o600))
			default:
				errs = append(errs, os.WriteFile(f.name, []byte("0123456789"), 0o600))
			}
			errs = append(errs, os.Chown(f.name, f.uid, f.uid), unix.Chmod(f.name, f.mode&0o7777))
		}
		return errors.Join(errs...)
	})
}

// accessIn asks for the pod's user in the container, in all mounts of which files belong to somebody.
func (w *world) accessIn(i *inspection, holder rights.Holder) {
	w.t.Helper()
	var err error
	i.mounts, err = mountsOf(w.pid)
	check(w.t, err)
	i.places, err = newPlaces(i.mounts)
	check(w.t, err)
	for _, m := range i.mounts {
		i.owned[m.ID] = m
	}
	i.access, err = newAccess(w.pid, &holder, i.owned)
	check(w.t, err)
	w.t.Cleanup(i.access.close)
}

// newInspection is one of a process that may be any.
func (w *world) newInspection() *inspection {
	w.t.Helper()
	g := &guard{facts: w.granted(), init: w.pid}
	g.facts.Grant.Files = &rights.Holder{UID: user, GID: user}
	i := &inspection{guard: g, findings: findings{v: &g.verdict}, owned: map[int]*mountinfo.Info{}}
	w.accessIn(i, *g.facts.Grant.Files)
	return i
}

// TestLookAtAccess has this process have files of the container open, by any way that there is, which the pod's user
// may have, or not.
func TestLookAtAccess(t *testing.T) {
	for name, c := range map[string]struct {
		file  string
		flags int
		after string // what becomes of files when it is open
		says  string
	}{
		"own":                          {file: "/own", flags: unix.O_RDWR},
		"of all":                       {file: "/all"},
		"of all, written":              {file: "/all", flags: unix.O_WRONLY, says: "owner 0:0, mode 0644"},
		"secret":                       {file: "/secret", says: "owner 0:0, mode 0600"},
		"secret, by its name only":     {file: "/secret", flags: unix.O_PATH},
		"FIFO":                         {file: "/fifo", flags: unix.O_RDWR, says: "owner 0:0, mode 0600"},
		"folder":                       {file: "/mine", flags: unix.O_DIRECTORY},
		"closed folder":                {file: "/closed", flags: unix.O_DIRECTORY, says: "owner 0:0, mode 0700"},
		"below a closed folder":        {file: "/closed/all", says: "a directory above it: owner 0:0, mode 0700"},
		"below one, by its name only":  {file: "/closed/all", flags: unix.O_PATH, says: "a directory above it"},
		"deleted":                      {file: "/mine/all", after: "rm /mine/all"},
		"removed folder of root":       {file: "/empty", flags: unix.O_DIRECTORY, after: "rm /empty"},
		"removed below a closed one":   {file: "/closed/empty", flags: unix.O_PATH, after: "rm /closed/empty", says: "above it"},
		"deleted secret":               {file: "/secret", after: "rm /secret", says: "owner 0:0, mode 0600"},
		"deleted below a closed one":   {file: "/closed/all", after: "rm /closed/all", says: "a directory above it"},
		"deleted with its folder":      {file: "/mine/all", after: "rm -r /mine"},
		"a closed folder that moves":   {file: "/closed/all", after: "mv /closed /open", says: "a directory above it"},
		"a secret at another's path":   {file: "/secret", after: "mv /secret /own", says: "owner 0:0"},
		"one whose path another's has": {file: "/own", after: "mv /secret /own"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.ownedTree()
			i := w.newInspection()
			fd := -1
			w.inside(func() (err error) {
				if fd, err = unix.Open(c.file, c.flags|unix.O_CLOEXEC, 0); err == nil {
					err = become(strings.Fields(c.after)...)
				}
				return err
			})
			defer unix.Close(fd)
			p := process{name: "process 1", dir: "/proc/self"}
			for range 2 { // what is known by then must not be taken for something else
				check(t, i.lookAtFile(p, "descriptor", p.path(fmt.Sprintf("fd/%d", fd)), byLink))
			}
			requireAccess(t, i, c.says)
		})
	}
}

// become renames or removes a file.
func become(how ...string) error {
	switch {
	case len(how) == 0:
		return nil
	case how[0] == "mv":
		return os.Rename(how[1], how[2])
	}
	return os.RemoveAll(how[len(how)-1])
}

func requireAccess(t *testing.T, i *inspection, says string) {
	t.Helper()
	found := strings.Join(about(i.v, accessCheck), "; ")
	if (says == "") != (found == "") || !strings.Contains(found, says) {
		t.Errorf("found %q, want %q", found, says)
	}
}

// mappedPages is the length of the last mapping of TestLookAtMapped.
var mappedPages = 37

// TestLookAtMapped has this process have files of the container mapped.
func TestLookAtMapped(t *testing.T) {
	const private, shared = unix.MAP_PRIVATE, unix.MAP_SHARED
	const read, write = unix.PROT_READ, unix.PROT_READ | unix.PROT_WRITE
	for name, c := range map[string]struct {
		file       string
		open, flag int
		prot       int
		says       string
	}{
		"own":                         {file: "/own", open: unix.O_RDWR, flag: shared, prot: write},
		"of all":                      {file: "/all", flag: shared, prot: read},
		"of all, private":             {file: "/all", flag: private, prot: write},
		"of all, written":             {file: "/all", open: unix.O_RDWR, flag: shared, prot: write, says: "mode 0644"},
		"of all, to be written later": {file: "/all", open: unix.O_RDWR, flag: shared, prot: read, says: "mode 0644"},
		"secret":                      {file: "/secret", flag: private, prot: read, says: "mode 0600"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.ownedTree()
			i := w.newInspection()
			// Each has another length, so that none has the addresses of an earlier one: the kernel remembers how that was
			// (Linux: fs/proc/base.c, map_files_d_revalidate).
			mappedPages++
			var mapped []byte
			w.inside(func() error {
				fd, err := unix.Open(c.file, c.open|unix.O_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				mapped, err = unix.Mmap(fd, 0, mappedPages*os.Getpagesize(), c.prot, c.flag)
				return err
			})
			// To the next inspection it is a file of no mount of the container, of which not all are told.
			defer func() { check(t, unix.Munmap(mapped)) }()
			check(t, i.lookAtMappings(process{name: "process 1", dir: "/proc/self"}))
			requireAccess(t, i, c.says)
		})
	}
}

// TestLookAtProgram: a program need only be allowed to be executed, or to be read.
func TestLookAtProgram(t *testing.T) {
	w := newWorld(t)
	w.ownedTree()
	for file, says := range map[string]string{"/run": "", "/all": "", "/secret": "mode 0600"} {
		i := w.newInspection()
		fd := -1
		w.inside(func() (err error) {
			fd, err = unix.Open(file, unix.O_PATH|unix.O_CLOEXEC, 0)
			return err
		})
		link := filepath.Join("/proc/self/fd", fmt.Sprint(fd))
		check(t, i.lookAtFile(process{name: "process 1"}, "exe", link, unix.R_OK|unix.X_OK))
		unix.Close(fd)
		requireAccess(t, i, says)
	}
}
