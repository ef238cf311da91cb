// Package kubernetes has the tests with a real kubelet and a real API server. They
// share one cluster, see TestKubernetes.
package kubernetes
