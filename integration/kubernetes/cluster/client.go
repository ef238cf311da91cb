package cluster

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// callTimeout bounds one call of kubectl or of the kubelet.
const callTimeout = 3 * time.Minute

// Kubectl runs kubectl as the cluster's administrator and returns its standard output. A non-zero exit fails the test.
func (c *Cluster) Kubectl(t testing.TB, args ...string) string {
	t.Helper()
	out, err := c.TryKubectl(t, args...)
	if err != nil {
		t.Fatalf("cluster: %v", err)
	}
	return out
}

// TryKubectl is Kubectl for calls that may fail; the error has kubectl's standard error.
func (c *Cluster) TryKubectl(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return c.kubectlWith("", args...)
}

// Apply creates the objects of a manifest.
func (c *Cluster) Apply(t testing.TB, manifest string) {
	t.Helper()
	if _, err := c.kubectlWith(manifest, "apply", "-f", "-"); err != nil {
		t.Fatalf("cluster: %v\n%s", err, manifest)
	}
}

func (c *Cluster) kubectlWith(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	cmd := c.command(ctx, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err,
			bytes.TrimSpace(stderr.Bytes()))
	}
	return stdout.String(), nil
}

func (c *Cluster) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, c.kubectl, append([]string{"--kubeconfig=" + c.config,
		"--cache-dir=" + c.path("home", "cache")}, args...)...)
	cmd.Dir, cmd.Env = c.dir, c.environ()
	return cmd
}

// Pod returns a pod as the API server has it.
func (c *Cluster) Pod(t testing.TB, name string) *corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	if err := json.Unmarshal([]byte(c.Kubectl(t, "get", "pod", name, "-o", "json")), &pod); err != nil {
		t.Fatalf("cluster: pod %s: %v", name, err)
	}
	return &pod
}

// WaitPod watches a pod and returns it as soon as it is as wanted; what says it in words. It fails the test after
// a time that is generous for the slowest of them.
func (c *Cluster) WaitPod(t testing.TB, name, what string, wanted func(*corev1.Pod) bool) *corev1.Pod {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	var last corev1.Pod
	for ctx.Err() == nil {
		err := c.watchPod(ctx, name, func(pod corev1.Pod) bool {
			last = pod
			return wanted(&pod)
		})
		if err == nil {
			return &last
		}
	}
	status, _ := json.MarshalIndent(last.Status.ContainerStatuses, "", "  ")
	t.Fatalf("cluster: pod %s: not seen within %v: %s. It is %s %s %s\n%s\n%s", name, callTimeout, what,
		last.Status.Phase, last.Status.Reason, last.Status.Message, status, strings.Join(c.Events(t, name), "\n"))
	return nil
}

// watchPod returns nil when found is true of the pod, an error when the watch ends before.
func (c *Cluster) watchPod(ctx context.Context, name string, found func(corev1.Pod) bool) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// By field, or kubectl would fail for a pod that is not there yet.
	cmd := c.command(ctx, "get", "pods", "--field-selector=metadata.name="+name, "--watch", "-o", "json")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	decoder := json.NewDecoder(stdout)
	for {
		var object struct {
			Kind  string       `json:"kind"`
			Items []corev1.Pod `json:"items"`
		}
		var raw json.RawMessage
		if err := decoder.Decode(&raw); err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &object); err != nil {
			return err
		}
		pods := object.Items
		if object.Kind == "Pod" {
			var pod corev1.Pod
			if err := json.Unmarshal(raw, &pod); err != nil {
				return err
			}
			pods = []corev1.Pod{pod}
		}
		for _, pod := range pods {
			if found(pod) {
				return nil
			}
		}
	}
}

// Events returns the events about a pod so far, "TYPE REASON: message" each, oldest first.
func (c *Cluster) Events(t testing.TB, pod string) []string {
	t.Helper()
	out, err := c.TryKubectl(t, "get", "events", "--field-selector=involvedObject.name="+pod,
		"--sort-by=.metadata.creationTimestamp",
		"-o", `jsonpath={range .items[*]}{.type} {.reason}: {.message}{"\n"}{end}`)
	if err != nil {
		return []string{err.Error()}
	}
	return strings.Split(strings.TrimSpace(out), "\n")
}

// Checkpoint checkpoints a container through the kubelet's API and returns the path of the archive. It is who the
// certificate says: "checkpointer" needs the cluster role for it.
func (c *Cluster) Checkpoint(t testing.TB, identity, pod, container string) (string, error) {
	t.Helper()
	resp, err := c.kubeletDo(identity, http.MethodPost, "/checkpoint/"+Namespace+"/"+pod+"/"+container)
	if err != nil {
		return "", err
	}
	var answer struct{ Items []string }
	if err := json.Unmarshal([]byte(resp), &answer); err != nil || len(answer.Items) != 1 {
		return "", fmt.Errorf("the kubelet answered %q: %w", resp, errors.Join(err, errors.New("want one item")))
	}
	return answer.Items[0], nil
}

// StatsSummary is the kubelet's /stats/summary, which kubectl top is made of.
func (c *Cluster) StatsSummary(t testing.TB, v any) {
	t.Helper()
	resp, err := c.kubeletGet("/stats/summary")
	if err == nil {
		err = json.Unmarshal([]byte(resp), v)
	}
	if err != nil {
		t.Fatalf("cluster: %v", err)
	}
}

func (c *Cluster) kubeletGet(path string) (string, error) {
	return c.kubeletDo("admin", http.MethodGet, path)
}

func (c *Cluster) kubeletDo(identity, method, path string) (string, error) {
	cert, err := tls.LoadX509KeyPair(c.keys.cert(identity), c.keys.private(identity))
	if err != nil {
		return "", err
	}
	ca, err := os.ReadFile(c.keys.cert("ca"))
	if err != nil {
		return "", err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{cert}}}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, loopback("https", c.ports.kubelet)+path, nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("kubelet: %s %s: %s: %s", method, path, resp.Status, body)
	}
	return string(body), err
}

// explain logs what helps to understand a failed test.
func (c *Cluster) explain(t testing.TB) {
	t.Helper()
	out, _ := c.TryKubectl(t, "get", "pods,events", "-A", "-o", "wide")
	t.Logf("cluster:\n%s\nend of the kubelet's log (KEEP=1 keeps %s):\n%s", out, c.dir, tail(c.path("kubelet.log")))
}
