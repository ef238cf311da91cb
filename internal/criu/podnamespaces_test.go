package criu

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	ipc_var "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-var"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/utsns"
	"golang.org/x/sys/unix"
)

// namespaceOf makes a namespace, calls change in it and returns its path.
func namespaceOf(t *testing.T, kind int, name string, change func() error) string {
	t.Helper()
	ready, done := make(chan error), make(chan struct{})
	var path string
	go func() {
		runtime.LockOSThread() // the thread, and with it the namespace, ends with the goroutine
		err := unix.Unshare(kind)
		if err == nil {
			err = change()
		}
		path = filepath.Join("/proc/self/task", strconv.Itoa(unix.Gettid()), "ns", name)
		ready <- err
		<-done
	}()
	t.Cleanup(func() { close(done) })
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	return path
}

func TestWriteUTS(t *testing.T) {
	path := namespaceOf(t, unix.CLONE_NEWUTS, "uts", func() error {
		return errors.Join(unix.Sethostname([]byte("pod-1")), unix.Setdomainname([]byte("example")))
	})
	dir := t.TempDir()
	if err := WriteUTS(path, filepath.Join(dir, "uts.img")); err != nil {
		t.Fatal(err)
	}
	got, err := One[*utsns.UtsnsEntry](openImages(t, dir), "uts.img", "UTSNS")
	if err != nil {
		t.Fatal(err)
	}
	if got.GetNodename() != "pod-1" || got.GetDomainname() != "example" {
		t.Errorf("got %q, %q", got.GetNodename(), got.GetDomainname())
	}
	if name, err := os.Hostname(); err != nil || name == "pod-1" {
		t.Errorf("this process is called %q, error %v", name, err)
	}
}

func TestWriteIPC(t *testing.T) {
	path := namespaceOf(t, unix.CLONE_NEWIPC, "ipc", func() error {
		return errors.Join(os.WriteFile("/proc/sys/kernel/msgmax", []byte("12345"), 0),
			os.WriteFile("/proc/sys/kernel/sem", []byte("111 2222 33 44"), 0))
	})
	dir := t.TempDir()
	if err := WriteIPC(path, filepath.Join(dir, "ipc.img")); err != nil {
		t.Fatal(err)
	}
	got, err := One[*ipc_var.IpcVarEntry](openImages(t, dir), "ipc.img", "IPC_VAR")
	if err != nil {
		t.Fatal(err)
	}
	if got.GetMsgCtlmax() != 12345 || len(got.GetSemCtls()) != 4 || got.GetSemCtls()[1] != 2222 ||
		got.GetShmCtlmax() == 0 || got.GetMqMsgsizeMax() == 0 {
		t.Errorf("got %v", got)
	}
	if here, err := sysctl("kernel/msgmax"); err != nil || here[0] == 12345 {
		t.Errorf("msgmax of this process is %d, error %v", here, err)
	}
}

func TestWriteNamespaceFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.img")
	for path, says := range map[string]string{
		"/proc/self/ns/no-such": "/proc/self/ns/no-such", // absent
		"/proc/self/ns/net":     "enter /proc/self/ns/net",
	} {
		for _, write := range []func(path, file string) error{WriteUTS, WriteIPC} {
			if err := write(path, file); err == nil || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: error %v", path, err)
			}
		}
	}
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was left: %v", err)
	}
}
