// Package cluster starts a real Kubernetes of one node for the tests: etcd,
// kube-apiserver and a kubelet that drives the containerd of a harness.Node. All of it
// listens on the loopback interface and lives in the node's folder.
//
//	n := harness.New(t, harness.WithRegistryAuth("kube", "secret"))
//	c := cluster.New(t, n)
//	c.Apply(t, manifest)
//	pod := c.WaitPod(t, "counter", "runs", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
//	c.Kubectl(t, "exec", "counter", "--", "ls")
//	c.ReconfigureKubelet(t, func(config map[string]any) { config["imageGCHighThresholdPercent"] = 1 })
//
// There is no scheduler and no controller manager. Pods name their node, [Node]; New makes the
// service account and the config map that each namespace would get from a controller.
//
// At the end of the test all pods are deleted through the API, and what the kubelet then has left is a leak.
package cluster
