package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"unsafe"
)

func init() {
	modes["pages"] = pages
	modes["pages-child"] = pagesChild
}

const words = 4096 / 8 // of a page

// field is memory of which every word says where it is.
type field struct {
	mem  []uint64
	mask uint64 // the number of pages, a power of two, less one
}

func newField(mib int) (*field, error) {
	n := mib << 20 / 4096
	if n <= 0 || bits.OnesCount(uint(n)) != 1 {
		return nil, fmt.Errorf("pages: %d MiB is no power of two", mib)
	}
	mem, err := syscall.Mmap(-1, 0, mib<<20, syscall.PROT_READ|syscall.PROT_WRITE,
		syscall.MAP_PRIVATE|syscall.MAP_ANONYMOUS)
	if err != nil {
		return nil, err
	}
	f := &field{mem: unsafe.Slice((*uint64)(unsafe.Pointer(&mem[0])), len(mem)/8), mask: uint64(n) - 1}
	for i := range f.mem {
		f.mem[i] = mix(uint64(i))
	}
	return f, nil
}

// mix is the finalizer of splitmix64: no two words are alike, none is zero.
//
//go:nosplit
func mix(i uint64) uint64 {
	i = (i + 1) * 0x9e3779b97f4a7c15
	i = (i ^ i>>30) * 0xbf58476d1ce4e5b9
	return i ^ i>>27
}

// wrong reads all pages, in an order that looks random and depends on the seed, and returns how many words are
// not what they were. It allocates nothing and calls nothing: a forked child runs it.
//
//go:nosplit
//go:norace
func (f *field) wrong(seed uint64) (count uint64) {
	page := seed & f.mask
	for range f.mask + 1 {
		page = (page*0x5851f42d4c957f2d + 2*seed + 1) & f.mask // of full period: the factor is 1 modulo 4
		for w := page * words; w < (page+1)*words; w++ {
			if f.mem[w] != mix(w) {
				count++
			}
		}
	}
	return count
}

// forked lets a forked child read all pages, and returns what it says. The child never comes back to Go's runtime.
func (f *field) forked(seed uint64) error {
	pid, _, errno := syscall.RawSyscall6(syscall.SYS_CLONE, uintptr(syscall.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		var code uintptr
		if f.wrong(seed) != 0 {
			code = 1
		}
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, code, 0, 0)
	}
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(int(pid), &ws, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if !ws.Exited() || ws.ExitStatus() != 0 {
			return fmt.Errorf("pages: forked child: %v", ws)
		}
		return nil
	}
}

// pages holds MiB of memory in each of some processes, and reads all of it at every tick in another order. With
// "fork" a forked child does so too.
func pages(args []string) error {
	if len(args) < 2 {
		return errors.New("pages takes a size in MiB and a number of processes")
	}
	mib, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	processes, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	type child struct {
		in  io.Writer
		out *bufio.Reader
	}
	var children []child
	for range processes - 1 {
		cmd := exec.Command("/proc/self/exe", "pages-child", args[0])
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		children = append(children, child{in, bufio.NewReader(out)})
	}
	f, err := newField(mib)
	if err != nil {
		return err
	}
	return every(func(n int) (string, error) {
		for _, c := range children {
			if _, err := fmt.Fprintln(c.in, n); err != nil {
				return "", err
			}
		}
		if len(args) > 2 && args[2] == "fork" {
			if err := f.forked(uint64(n) * 7); err != nil {
				return "", err
			}
		}
		if wrong := f.wrong(uint64(n)); wrong > 0 {
			return "", fmt.Errorf("pages: %d words are wrong", wrong)
		}
		for i, c := range children {
			line, err := c.out.ReadString('\n')
			if err != nil {
				return "", err
			}
			if line != fmt.Sprintf("right %d\n", n) {
				return "", fmt.Errorf("pages: process %d: %q", i, line)
			}
		}
		return fmt.Sprintf("pages %d MiB in %d processes", mib, processes), nil
	})
}

func pagesChild(args []string) error {
	mib, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	f, err := newField(mib)
	if err != nil {
		return err
	}
	for questions := bufio.NewReader(os.Stdin); ; {
		var n int
		if _, err := fmt.Fscanf(questions, "%d\n", &n); err != nil {
			return err
		}
		if wrong := f.wrong(uint64(n) * 3); wrong > 0 {
			fmt.Printf("%d words are wrong\n", wrong)
		} else {
			fmt.Printf("right %d\n", n)
		}
	}
}
