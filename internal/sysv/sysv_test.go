package sysv

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inNamespace makes an IPC namespace with objects, and returns its path.
func inNamespace(t *testing.T, fill func() error) string {
	t.Helper()
	ready, done := make(chan error), make(chan struct{})
	t.Cleanup(func() { close(done) })
	var path string
	go func() {
		runtime.LockOSThread() // and never unlocked: the namespace goes with the thread
		err := unix.Unshare(unix.CLONE_NEWIPC)
		if err == nil {
			path, err = fmt.Sprintf("/proc/%d/task/%d/ns/ipc", os.Getpid(), unix.Gettid()), fill()
		}
		ready <- err
		<-done
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	return path
}

// make3 makes an object of each kind with a key.
func make3(key int) error {
	if _, err := unix.SysvShmGet(key, 4096, unix.IPC_CREAT|unix.IPC_EXCL|0o600); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_MSGGET, uintptr(key), unix.IPC_CREAT|unix.IPC_EXCL|0o600, 0); errno != 0 {
		return errno
	}
	if _, _, errno := unix.Syscall(unix.SYS_SEMGET, uintptr(key), 2, unix.IPC_CREAT|unix.IPC_EXCL|0o600); errno != 0 {
		return errno
	}
	return nil
}

func TestListAndRemove(t *testing.T) {
	path := inNamespace(t, func() error {
		if err := make3(4711); err != nil {
			return err
		}
		return make3(unix.IPC_PRIVATE)
	})
	all, err := List(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, o := range all {
		got = append(got, fmt.Sprint(o.Kind, " ", o.Key, " ", o.Attached))
	}
	slices.Sort(got)
	if want := []string{"msg 0 0", "msg 4711 0", "sem 0 0", "sem 4711 0", "shm 0 0", "shm 4711 0"}; !slices.Equal(got,
		want) {
		t.Fatalf("got %q, want %q", got, want)
	}
	keyed := slices.DeleteFunc(slices.Clone(all), func(o Object) bool { return o.Key == 0 })
	for range 2 { // the second time they are gone
		if err := Remove(path, keyed); err != nil {
			t.Fatal(err)
		}
	}
	left, err := List(path)
	if err != nil || len(left) != 3 || slices.ContainsFunc(left, func(o Object) bool { return o.Key != 0 }) {
		t.Errorf("left %v, %v", left, err)
	}
	if _, err := List("/proc/self/ns/nothing"); err == nil {
		t.Error("a namespace that there is not")
	}
}

func TestInTheWay(t *testing.T) {
	made := []Object{{Kind: Segment, ID: 5, Key: 7}, {Kind: Queue, ID: 9}}
	for there, want := range map[Object]bool{
		{Kind: Segment, ID: 6, Key: 7}:         true, // the same key
		{Kind: Segment, ID: 5, Key: 8}:         true, // the same ID
		{Kind: Segment, ID: 5 + 1<<15, Key: 8}: true, // in the same place, later
		{Kind: Segment, ID: 6, Key: 8}:         false,
		{Kind: Semaphores, ID: 5, Key: 7}:      false, // of another kind
		{Kind: Queue, ID: 10}:                  false, // neither has a key
		{Kind: Queue, ID: 9, Key: 3}:           true,
	} {
		if got := InTheWay([]Object{there}, made); (len(got) == 1 && got[0] == there) != want || len(got) > 1 {
			t.Errorf("%v: %v", there, got)
		}
	}
}

func TestParse(t *testing.T) {
	const titles = "       key      shmid perms                  size  cpid  lpid nattch\n"
	all, err := parse(Segment,
		strings.NewReader(titles+"        -1      32769  1600                  4096    10    11      3\n"))
	if err != nil || len(all) != 1 || all[0] != (Object{Kind: Segment, ID: 32769, Key: 1<<32 - 1, Attached: 3}) {
		t.Errorf("got %v, %v", all, err)
	}
	for _, text := range []string{"", titles + "1 2\n", titles + "x 1 0 0 0 0 0\n", titles + "1 99999999999 0 0 0 0 0\n",
		titles + "1 1 0 0 0 0 x\n"} {
		if _, err := parse(Segment, strings.NewReader(text)); err == nil {
			t.Errorf("%q is accepted", text)
		}
	}
}
