package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// tcpListener listens, and connects to itself anew for every check.
func tcpListener() (func() error, error) {
	var config net.ListenConfig
	config.SetMultipathTCP(false) // CRIU does not know it
	l, err := config.Listen(context.Background(), "tcp", "127.0.0.1:8080")
	if err != nil {
		return nil, err
	}
	if _, err := config.Listen(context.Background(), "tcp", ":8081"); err != nil { // IPv6 as well
		return nil, err
	}
	return func() error {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return err
		}
		defer c.Close()
		s, err := l.Accept()
		if err != nil {
			return err
		}
		// Reset, so that no connection is left in TIME_WAIT.
		if err := s.(*net.TCPConn).SetLinger(0); err != nil {
			return err
		}
		return s.Close()
	}, nil
}

func udpPair() (func() error, error) {
	a, err := net.ListenPacket("udp", "127.0.0.1:8082")
	if err != nil {
		return nil, err
	}
	b, err := net.Dial("udp", a.LocalAddr().String())
	if err != nil {
		return nil, err
	}
	return func() error {
		if _, err := b.Write([]byte("ping")); err != nil {
			return err
		}
		_, _, err := a.ReadFrom(make([]byte, 8))
		return err
	}, nil
}

// unixListener listens at a path and at an abstract name, and keeps a connection open.
func unixListener() (func() error, error) {
	var conns []net.Conn
	for _, name := range []string{"/tmp/kinds.sock", "@kinds"} {
		l, err := net.Listen("unix", name)
		if err != nil {
			return nil, err
		}
		c, err := net.Dial("unix", name)
		if err != nil {
			return nil, err
		}
		s, err := l.Accept()
		if err != nil {
			return nil, err
		}
		conns = append(conns, c, s)
	}
	d, err := net.ListenPacket("unixgram", "/tmp/kinds.dgram")
	if err != nil {
		return nil, err
	}
	return func() error {
		for i := 0; i < len(conns); i += 2 {
			if _, err := conns[i].Write([]byte("ping")); err != nil {
				return err
			}
			if _, err := io.ReadFull(conns[i+1], make([]byte, 4)); err != nil {
				return err
			}
		}
		c, err := net.Dial("unixgram", "/tmp/kinds.dgram")
		if err != nil {
			return err
		}
		defer c.Close()
		if _, err := c.Write([]byte("ping")); err != nil {
			return err
		}
		_, _, err = d.ReadFrom(make([]byte, 8))
		return err
	}, nil
}

func socketPair() (func() error, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET, 0)
	if err != nil {
		return nil, err
	}
	return func() error { return exchange(fds[0], fds[1]) }, nil
}

func exchange(from, to int) error {
	if _, err := syscall.Write(from, []byte("ping")); err != nil {
		return err
	}
	_, err := syscall.Read(to, make([]byte, 8))
	return err
}

// inFlight leaves a message with a descriptor in a queue, which nothing else holds.
func inFlight() (func() error, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_DGRAM, 0)
	if err != nil {
		return nil, err
	}
	send := func() error {
		f, err := os.Open("/etc/passwd")
		if err != nil {
			return err
		}
		defer f.Close()
		return syscall.Sendmsg(fds[0], []byte("file"), syscall.UnixRights(int(f.Fd())), nil, 0)
	}
	if err := send(); err != nil {
		return nil, err
	}
	return func() error {
		oob := make([]byte, syscall.CmsgSpace(4))
		_, n, _, _, err := syscall.Recvmsg(fds[1], make([]byte, 8), oob, 0)
		if err != nil {
			return err
		}
		messages, err := syscall.ParseSocketControlMessage(oob[:n])
		if err != nil || len(messages) != 1 {
			return fmt.Errorf("%d control messages: %w", len(messages), err)
		}
		got, err := syscall.ParseUnixRights(&messages[0])
		if err != nil {
			return err
		}
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", got[0]))
		if err != nil || name != "/etc/passwd" {
			return fmt.Errorf("the descriptor in flight is of %q: %w", name, err)
		}
		return errors.Join(syscall.Close(got[0]), send())
	}, nil
}

// ownedSocket has signals sent to this process for a socket.
func ownedSocket() (func() error, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	if _, err := unix.FcntlInt(uintptr(fds[0]), unix.F_SETOWN, os.Getpid()); err != nil {
		return nil, err
	}
	return func() error {
		owner, err := unix.FcntlInt(uintptr(fds[0]), unix.F_GETOWN, 0)
		if err != nil || owner != os.Getpid() {
			return fmt.Errorf("the owner is %d: %w", owner, err)
		}
		return nil
	}, nil
}

// shutSocket holds the end of a connection whose other end is closed.
func shutSocket() (func() error, error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		return nil, err
	}
	if err := syscall.Close(fds[1]); err != nil {
		return nil, err
	}
	return func() error {
		n, err := syscall.Read(fds[0], make([]byte, 8))
		if n != 0 || err != nil {
			return fmt.Errorf("read %d bytes: %w", n, err)
		}
		return nil
	}, nil
}
