package cluster

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"testing"
)

func (c *Cluster) startEtcd(t testing.TB) {
	t.Helper()
	mustPorts(t, &c.ports.etcd, &c.ports.peer)
	client, peer := loopback("http", c.ports.etcd), loopback("http", c.ports.peer)
	c.etcd = c.launch(t, "etcd", "--name=test", "--data-dir="+c.path("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=test="+peer)
	c.etcd.await(t, func() bool {
		resp, err := http.Get(client + "/health")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

func (c *Cluster) startAPIServer(t testing.TB) {
	t.Helper()
	k := c.keys
	c.apiserver = c.launch(t, "kube-apiserver",
		"--etcd-servers="+loopback("http", c.ports.etcd),
		"--bind-address=127.0.0.1", "--secure-port="+strconv.Itoa(c.ports.apiserver), "--cert-dir="+c.path("home"),
		"--client-ca-file="+k.cert("ca"), "--tls-cert-file="+k.cert("apiserver"),
		"--tls-private-key-file="+k.private("apiserver"),
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+k.private("ca"),
		"--service-account-signing-key-file="+k.private("ca"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--kubelet-client-certificate="+k.cert("apiserver"), "--kubelet-client-key="+k.private("apiserver"),
		"--kubelet-certificate-authority="+k.cert("ca"),
		"--kubelet-preferred-address-types=Hostname",
		// which would want an address that is not loopback
		"--service-cluster-ip-range=10.96.0.0/24", "--endpoint-reconciler-type=none",
		"--v=1")
	c.apiserver.await(t, func() bool {
		_, err := c.TryKubectl(t, "get", "--raw=/readyz")
		return err == nil
	})
}

// makeDefaults makes what controllers would make in a namespace.
func (c *Cluster) makeDefaults(t testing.TB) {
	t.Helper()
	c.MakeNamespaceDefaults(t, Namespace)
}

// MakeNamespaceDefaults makes in a namespace what every pod needs and a controller would make.
func (c *Cluster) MakeNamespaceDefaults(t testing.TB, namespace string) {
	t.Helper()
	c.Kubectl(t, "create", "serviceaccount", "default", "-n", namespace)
	c.Kubectl(t, "create", "configmap", "kube-root-ca.crt", "-n", namespace, "--from-file=ca.crt="+c.keys.cert("ca"))
}

// writeKubeconfig writes the client configuration of an identity and returns its path.
func (c *Cluster) writeKubeconfig(name string) (string, error) {
	if c.ports.apiserver == 0 {
		var err error
		if c.ports.apiserver, err = freePort(); err != nil {
			return "", err
		}
	}
	file := c.path(name + ".kubeconfig")
	return file, os.WriteFile(file, fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: test
clusters: [{name: test, cluster: {server: "%s", certificate-authority: "%s"}}]
users: [{name: test, user: {client-certificate: "%s", client-key: "%s"}}]
contexts: [{name: test, context: {cluster: test, user: test, namespace: %s}}]
`, loopback("https", c.ports.apiserver), c.keys.cert("ca"), c.keys.cert(name), c.keys.private(name), Namespace), 0o600)
}

func loopback(scheme string, port int) string { return fmt.Sprintf("%s://127.0.0.1:%d", scheme, port) }
