// Package sysv is System V IPC (sysvipc(7)): the shared memory segments, message queues and semaphore sets of an IPC
// namespace, which outlive the processes that have made them.
package sysv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/namespace"
)

// Kind is a kind of objects.
type Kind string

// The kinds, by the names of their files in /proc/sysvipc.
const (
	Segment    Kind = "shm"
	Queue      Kind = "msg"
	Semaphores Kind = "sem"
)

var names = map[Kind]string{Segment: "shared memory segment", Queue: "message queue", Semaphores: "semaphore set"}

// indexBits are those of an ID that say where the kernel keeps the object (Linux: ipc/util.h, IPCMNI_SHIFT). Two
// objects of a kind cannot have them in common.
const indexBits = 1<<15 - 1

// Object is one of them.
type Object struct {
	Kind Kind
	ID   uint32
	// Key is that by which processes find the object, 0 for none (IPC_PRIVATE).
	Key uint32
	// Attached is how many processes have attached a segment.
	Attached int
}

func (o Object) String() string { return fmt.Sprintf("%s %d with key %#x", names[o.Kind], o.ID, o.Key) }

// InTheWay returns the objects that are there and that the kernel cannot have in one namespace with those to be made:
// they have the same key, or the same place.
func InTheWay(there, made []Object) (all []Object) {
	type name struct {
		kind  Kind
		place bool
		value uint32
	}
	taken := map[name]bool{}
	for _, o := range made {
		taken[name{o.Kind, true, o.ID & indexBits}] = true
		if o.Key != 0 {
			taken[name{o.Kind, false, o.Key}] = true
		}
	}
	for _, o := range there {
		if taken[name{o.Kind, true, o.ID & indexBits}] || o.Key != 0 && taken[name{o.Kind, false, o.Key}] {
			all = append(all, o)
		}
	}
	return all
}

// List returns the objects of the IPC namespace at path.
func List(path string) (all []Object, err error) {
	err = namespace.Within(path, unix.CLONE_NEWIPC, func() error {
		all, err = list()
		return err
	})
	return all, err
}

// list returns those of the thread's namespace (Linux: ipc/util.c, sysvipc_proc_open).
func list() ([]Object, error) {
	var all []Object
	for _, kind := range []Kind{Segment, Queue, Semaphores} {
		f, err := os.Open("/proc/sysvipc/" + string(kind))
		if err != nil {
			return nil, err
		}
		found, err := parse(kind, f)
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		all = append(all, found...)
	}
	return all, nil
}

// parse reads a file of /proc/sysvipc: a line of titles, and a line an object.
func parse(kind Kind, r io.Reader) ([]Object, error) {
	lines := bufio.NewScanner(r)
	if !lines.Scan() {
		return nil, errors.Join(errors.New("it is empty"), lines.Err())
	}
	titles := strings.Fields(lines.Text())
	attached := slices.Index(titles, "nattch")
	var all []Object
	for lines.Scan() {
		values := strings.Fields(lines.Text())
		if len(values) != len(titles) || len(values) < 2 {
			return nil, fmt.Errorf("line %q is none of %q", lines.Text(), titles)
		}
		key, err := strconv.ParseInt(values[0], 10, 64) // an int, which the kernel shows with its sign
		id, err2 := strconv.ParseUint(values[1], 10, 31)
		o := Object{Kind: kind, ID: uint32(id), Key: uint32(key)}
		var err3 error
		if attached >= 0 {
			o.Attached, err3 = strconv.Atoi(values[attached])
		}
		if err := errors.Join(err, err2, err3); err != nil {
			return nil, err
		}
		all = append(all, o)
	}
	return all, lines.Err()
}
