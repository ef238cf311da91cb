package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

// threads keeps some threads counting, each of its own. A thread may be late, not stand
// still: a restore makes this process's sleep end at once, before the others ran again.
func threads([]string) error {
	const count = 8
	const patience = 10 * time.Second
	var counters [count]atomic.Int64
	for i := range counters {
		go func() {
			runtime.LockOSThread()
			for {
				counters[i].Add(1)
				time.Sleep(10 * time.Millisecond)
			}
		}()
	}
	var before [count]int64
	return every(func(n int) (string, error) {
		for i := range counters {
			waited := time.Duration(0)
			for counters[i].Load() <= before[i] {
				if waited >= patience {
					return "", fmt.Errorf("threads: thread %d stands still at %d", i, before[i])
				}
				time.Sleep(time.Millisecond)
				waited += time.Millisecond
			}
			before[i] = counters[i].Load()
		}
		tasks, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return "", err
		}
		if n > 5 && len(tasks) < count {
			return "", fmt.Errorf("threads: %d tasks are left", len(tasks))
		}
		return fmt.Sprintf("threads first %d", before[0]), nil
	})
}

// tree asks a child by a pipe, which asks its own child by a Unix socket, for
// the next number. Every process knows the last one.
func tree([]string) error {
	cmd := exec.Command("/proc/self/exe", "tree-end", "middle")
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	answers := bufio.NewReader(out)
	return every(func(n int) (string, error) {
		if _, err := fmt.Fprintln(in, n); err != nil {
			return "", err
		}
		line, err := answers.ReadString('\n')
		if err != nil {
			return "", err
		}
		if want := fmt.Sprintf("leaf %d after %d", n, n-1); strings.TrimSpace(line) != want {
			return "", fmt.Errorf("tree: answer %q, not %q", line, want)
		}
		return "tree " + strings.TrimSpace(line), nil
	})
}

// treeEnd is the middle process of tree, or the last.
func treeEnd(args []string) error {
	if args[0] == "middle" {
		return treeMiddle()
	}
	conn, err := net.Dial("unix", args[0])
	if err != nil {
		return err
	}
	last, lines := 0, bufio.NewReader(conn)
	for {
		var n int
		if _, err := fmt.Fscanf(lines, "%d\n", &n); err != nil {
			return err
		}
		if _, err := fmt.Fprintf(conn, "leaf %d after %d\n", n, last); err != nil {
			return err
		}
		last = n
	}
}

func treeMiddle() error {
	socket := fmt.Sprintf("/tmp/tree-%d.sock", os.Getpid())
	l, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	leaf := exec.Command("/proc/self/exe", "tree-end", socket)
	leaf.Stderr = os.Stderr
	if err := leaf.Start(); err != nil {
		return err
	}
	conn, err := l.Accept()
	if err != nil {
		return err
	}
	questions, answers := bufio.NewReader(os.Stdin), bufio.NewReader(conn)
	for {
		line, err := questions.ReadString('\n')
		if err != nil {
			return err
		}
		if _, err := conn.Write([]byte(line)); err != nil {
			return err
		}
		if line, err = answers.ReadString('\n'); err != nil {
			return err
		}
		fmt.Print(line)
	}
}

// listen answers each TCP connection with the number of connections so far.
func listen(args []string) error {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	var served atomic.Int64
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				fmt.Println("BAD", err)
				os.Exit(1)
			}
			fmt.Fprintf(c, "connection %d of pid %d\n", served.Add(1), os.Getpid())
			c.Close()
		}
	}()
	return every(func(int) (string, error) { return fmt.Sprintf("listen served %d", served.Load()), nil })
}

// trap needs a second after SIGTERM, and ends with 7.
func trap([]string) error {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGTERM)
	go func() {
		<-c
		fmt.Println("ok 0 trap got SIGTERM")
		time.Sleep(time.Second)
		os.Exit(7)
	}()
	return every(func(int) (string, error) { return "trap", nil })
}
