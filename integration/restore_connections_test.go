package integration

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestRestoreConnections restores a program with connections of all kinds, of which nothing is configured: those within
// the pod go on with what was on its way, at the new pod's address where they had the old one's; those to others are
// closed; and the container that was checkpointed keeps them all. So it is with the checkpoint of a restored one, and
// with another restore in the same pod.
func TestRestoreConnections(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	img := workloadImage(t, n)
	pod := n.Pod(t)
	c := pod.Run("connections", img, workload("connections", echoServer(t, pod)))
	counted := waitOK(t, c, 3)
	client := dialEcho(t, pod, "9012")
	client.requireEcho()
	requireConnections(t, c, "inbound 1, outbound open")

	for generation := range 3 {
		archive := checkpointOf(t, c)
		if generation == 0 {
			client.requireEcho()
			waitOK(t, c, counted+5)
			requireConnections(t, c, "inbound 1, outbound open")
		} else {
			pod.Remove()
		}
		pod = n.Pod(t)
		for _, name := range []string{"first", "again"} {
			c = pod.Run(name, archive)
			waitOK(t, c, counted+3)
			requireConnections(t, c, "inbound 0, outbound 0 EOF")
			for _, port := range []string{"9010", "9012"} {
				fresh := dialEcho(t, pod, port)
				fresh.requireEcho()
				fresh.Close()
			}
			requirePacketEcho(t, pod, "9011")
			if name == "first" {
				c.Remove()
			}
		}
		if generation == 0 {
			client.requireEcho()
		}
		counted = waitOK(t, c, counted)
	}
}

// TestRestoreConnectionsRefused: where the node wants no connections a checkpoint with one is refused, also if it is
// within the pod; where it wants none to come back they do not. What is bound to an address that the pod had is refused
// where it cannot be said what stands for it.
func TestRestoreConnectionsRefused(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives+"\ntcp_connections = \"refuse\"\npod_annotations = "+
		"[\"tcp-connections\"]\n"))
	img := workloadImage(t, n)
	asking := func(value string) harness.PodOpt {
		return harness.PodAnnotation("org.criu.restore/tcp-connections", value)
	}
	pod := n.Pod(t)
	c := pod.Run("connections", img, workload("connections", echoServer(t, pod)))
	counted := waitOK(t, c, 3)
	archive, ip := checkpointOf(t, c), pod.IP()
	pod.Remove()

	_, err := n.Pod(t).TryCreate("refused", archive)
	requireRefused(t, err, codes.PermissionDenied, "a connection to port", `tcp_connections = "local" or "close"`)
	closed := n.Pod(t, asking("close")).Create("closed", archive)
	switch err := closed.TryStart(); {
	case err == nil:
		closed.WaitLog(func(lines []string) bool { return strings.Contains(strings.Join(lines, "\n"), "BAD connections: ") })
	case !strings.Contains(err.Error(), "Unable to detach"):
		t.Fatal(err)
	default: // it has ended for it before CRIU had let go of all its threads (criu/cr-restore.c, finalize_restore_detach)
	}
	_, err = n.Pod(t, asking("local"), harness.PodHostNetwork()).TryCreate("node", archive)
	requireRefused(t, err, codes.FailedPrecondition, "bound to addresses of the pod that was checkpointed", ip+":9010",
		"bind to all addresses")

	restored := n.Pod(t, asking("local")).Run("local", archive)
	waitOK(t, restored, counted+3)
	requireConnections(t, restored, "inbound 0, outbound 0 EOF")
}

func requireConnections(t *testing.T, c *harness.Container, want string) {
	t.Helper()
	c.WaitLog(func(lines []string) bool { return strings.HasSuffix(lines[len(lines)-1], want) })
}

// echoServer echoes on TCP and UDP, at an address that the pod reaches, until the test ends.
func echoServer(t *testing.T, pod *harness.Pod) string {
	t.Helper()
	route, err := net.Dial("udp", net.JoinHostPort(pod.IP(), "9"))
	if err != nil {
		t.Fatal(err)
	}
	defer route.Close()
	host, _, _ := net.SplitHostPort(route.LocalAddr().String())
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	u, err := net.ListenPacket("udp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); u.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); _, _ = io.Copy(c, c) }()
		}
	}()
	go func() {
		b := make([]byte, 64)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			_, _ = u.WriteTo(b[:n], from)
		}
	}()
	return l.Addr().String()
}

// echoClient is a client of a program that echoes.
type echoClient struct {
	net.Conn
	t *testing.T
	n int
}

func dialEcho(t *testing.T, pod *harness.Pod, port string) *echoClient {
	t.Helper()
	c, err := net.DialTimeout("tcp", net.JoinHostPort(pod.IP(), port), 30*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return &echoClient{Conn: c, t: t}
}

func (c *echoClient) requireEcho() {
	c.t.Helper()
	c.n++
	text := fmt.Sprintf("message %08d", c.n)
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		c.t.Fatal(err)
	}
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Fatal(err)
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		c.t.Fatalf("%s to %s: got %q, %v", c.LocalAddr(), c.RemoteAddr(), got, err)
	}
}

// requirePacketEcho asks by UDP, a few times if need be.
func requirePacketEcho(t *testing.T, pod *harness.Pod, port string) {
	t.Helper()
	c, err := net.Dial("udp", net.JoinHostPort(pod.IP(), port))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range 30 {
		_, _ = c.Write([]byte("x"))
		if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err = c.Read(make([]byte, 8)); err == nil {
			return
		}
	}
	t.Errorf("UDP at %s: %v", c.RemoteAddr(), err)
}
