package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"sync/atomic"
	"time"
)

func init() { modes["connections"], modes["accept"] = connections, acceptLate }

// acceptLate accepts connections only while a file is there.
func acceptLate(args []string) error {
	l, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	return every(func(int) (string, error) {
		if _, err := os.Stat(args[1]); errors.Is(err, fs.ErrNotExist) {
			return "waiting", nil
		} else if err != nil {
			return "", err
		}
		c, err := l.Accept()
		if err != nil {
			return "", err
		}
		return "accepted", errors.Join(c.Close(), os.Remove(args[1]))
	})
}

// connections holds connections with both ends in this process, and some with an end elsewhere: those that it accepts,
// and one to a server, which echoes what it gets on TCP and UDP. What becomes of these it says in every line.
func connections(args []string) error {
	own, err := ownAddress()
	if err != nil {
		return err
	}
	var checks []func(n int) error
	for _, at := range []struct{ listen, dial string }{
		{"127.0.0.1:9001", "127.0.0.1:9001"}, {own + ":9002", own + ":9002"}, {"[::]:9003", own + ":9003"},
		{"[::]:9004", "127.0.0.1:9004"}, {"[::1]:9005", "[::1]:9005"},
	} {
		check, err := connectionPair(at.listen, at.dial)
		if err != nil && at.listen[:5] == "[::1]" {
			continue // the pod has no IPv6
		}
		if err != nil {
			return fmt.Errorf("connections: %s: %w", at.dial, err)
		}
		checks = append(checks, check)
	}
	var inbound atomic.Int32
	for _, at := range []string{own + ":9010", "[::]:9012"} {
		l, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		go echoAll(l, &inbound)
	}
	u, err := net.ListenPacket("udp", own+":9011")
	if err != nil {
		return err
	}
	go echoPackets(u)
	outside, err := net.Dial("tcp", args[0])
	if err != nil {
		return err
	}
	outbound := make(chan string, 1)
	go func() {
		n, err := outside.Read(make([]byte, 1))
		outbound <- fmt.Sprintf("%d %v", n, err)
	}()
	for _, to := range []string{args[0], own + ":9011"} {
		c, err := net.Dial("udp", to)
		if err != nil {
			return err
		}
		checks = append(checks, func(int) error { return askPacket(c) })
	}
	state := "open"
	return every(func(n int) (string, error) {
		for _, check := range checks {
			if err := check(n); err != nil {
				return "", fmt.Errorf("connections: %w", err)
			}
		}
		select {
		case state = <-outbound:
		default:
		}
		return fmt.Sprintf("%d checks, inbound %d, outbound %s", len(checks), inbound.Load(), state), nil
	})
}

// ownAddress is the pod's.
func ownAddress() (string, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return "", err
	}
	for _, a := range all {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && !n.IP.IsLoopback() {
			return n.IP.String(), nil
		}
	}
	return "", errors.New("connections: the pod has no address")
}

// connectionPair connects to itself. Each end always has a number in its queue, which the next check reads.
func connectionPair(listen, dial string) (func(n int) error, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	a, err := net.Dial("tcp", dial)
	if err != nil {
		return nil, err
	}
	b, err := l.Accept()
	if err != nil {
		return nil, err
	}
	write := func(n int) error {
		_, aerr := fmt.Fprintf(a, "%08d", n)
		_, berr := fmt.Fprintf(b, "%08d", n)
		return errors.Join(aerr, berr)
	}
	return func(n int) error {
		for _, c := range []net.Conn{a, b} {
			text := make([]byte, 8)
			if err := c.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
				return err
			}
			if _, err := io.ReadFull(c, text); err != nil {
				return fmt.Errorf("%s to %s: %w", c.LocalAddr(), c.RemoteAddr(), err)
			}
			if string(text) != fmt.Sprintf("%08d", n) {
				return fmt.Errorf("%s to %s: got %q, want %d", c.LocalAddr(), c.RemoteAddr(), text, n)
			}
		}
		return write(n + 1)
	}, write(1)
}

// echoAll echoes on all connections, and counts those that are open.
func echoAll(l net.Listener, open *atomic.Int32) {
	for {
		c, err := l.Accept()
		if err != nil {
			fmt.Println("BAD accept:", err)
			return
		}
		open.Add(1)
		go func() {
			defer open.Add(-1)
			defer c.Close()
			_, _ = io.Copy(c, c) // its end is what is counted
		}()
	}
}

func echoPackets(c net.PacketConn) {
	for {
		b := make([]byte, 64)
		n, from, err := c.ReadFrom(b)
		if err == nil {
			_, err = c.WriteTo(b[:n], from)
		}
		if err != nil {
			fmt.Println("BAD packet:", err)
			return
		}
	}
}

// askPacket asks until there is an answer: what was on its way at a checkpoint is lost, as datagrams may be.
func askPacket(c net.Conn) (err error) {
	for range 30 {
		if _, err = c.Write([]byte("x")); err != nil {
			return err
		}
		if err = c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if _, err = c.Read(make([]byte, 64)); err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
	return fmt.Errorf("%s to %s: %w", c.LocalAddr(), c.RemoteAddr(), err)
}
