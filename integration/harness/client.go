package harness

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const k8sNamespace = "k8s.io"

// Runtime is CRI's runtime service over the node's socket. It stays valid when
// containerd is restarted.
func (n *Node) Runtime() runtime.RuntimeServiceClient {
	n.t.Helper()
	conn, err := n.dial()
	if err != nil {
		n.t.Fatalf("harness: %v", err)
	}
	return runtime.NewRuntimeServiceClient(conn)
}

// Images is CRI's image service over the node's socket.
func (n *Node) Images() runtime.ImageServiceClient {
	n.t.Helper()
	conn, err := n.dial()
	if err != nil {
		n.t.Fatalf("harness: %v", err)
	}
	return runtime.NewImageServiceClient(conn)
}

// Client is a containerd client in CRI's namespace, k8s.io. It shares the
// connection of Runtime: do not close it.
func (n *Node) Client() *containerd.Client {
	n.t.Helper()
	conn, err := n.dial()
	if err != nil {
		n.t.Fatalf("harness: %v", err)
	}
	client, err := containerd.NewWithConn(conn, containerd.WithDefaultNamespace(k8sNamespace))
	if err != nil {
		n.t.Fatalf("harness: %v", err)
	}
	return client
}

// Context returns a context in CRI's namespace, for Client and for CRI calls alike.
// It ends with the test, or after two minutes, kubelet's limit for one CRI call.
func (n *Node) Context() context.Context {
	ctx, cancel := callContext(n.t)
	n.t.Cleanup(cancel)
	return namespaces.WithNamespace(ctx, k8sNamespace)
}

// Crictl runs crictl against the node and returns its standard output. A non-zero
// exit fails the test.
func (n *Node) Crictl(args ...string) string {
	n.t.Helper()
	out, err := n.TryCrictl(args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// TryCrictl is Crictl for calls that may fail; the error has crictl's standard error.
func (n *Node) TryCrictl(args ...string) (string, error) {
	n.t.Helper()
	endpoint := "unix://" + n.socket()
	config := n.path("crictl.yaml")
	// With a file of its own crictl does not read the machine's /etc/crictl.yaml.
	if err := os.WriteFile(config, []byte("timeout: 120\n"), 0o600); err != nil {
		return "", err
	}
	return n.tool("crictl", append([]string{
		"--config", config, "--runtime-endpoint", endpoint, "--image-endpoint", endpoint, "--timeout", "120s",
	}, args...))
}

// Ctr runs ctr against the node in namespace k8s.io and returns its standard
// output. A non-zero exit fails the test.
func (n *Node) Ctr(args ...string) string {
	n.t.Helper()
	out, err := n.TryCtr(args...)
	if err != nil {
		n.t.Fatal(err)
	}
	return out
}

// TryCtr is Ctr for calls that may fail; the error has ctr's standard error.
func (n *Node) TryCtr(args ...string) (string, error) {
	n.t.Helper()
	return n.tool("ctr", append([]string{"--address", n.socket(), "--namespace", k8sNamespace}, args...))
}

func (n *Node) tool(name string, args []string) (string, error) {
	ctx, cancel := callContext(n.t)
	defer cancel()
	cmd := exec.CommandContext(ctx, n.tools.Bin+"/"+name, args...)
	cmd.Dir = n.Dir()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err,
			bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}
