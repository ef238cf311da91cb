package cluster

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// kubeletSettings is the kubelet's configuration (KubeletConfiguration, kubelet.config.k8s.io/v1beta1). What differs
// from a node of a cluster is said why.
func (c *Cluster) kubeletSettings() map[string]any {
	k := c.keys
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + c.Node.Socket(),
		"staticPodPath":            c.ManifestsDir(),
		"podLogsDir":               c.PodLogsDir(),
		"volumePluginDir":          c.path("plugins"),
		"resolvConf":               c.path("resolv.conf"),
		"address":                  "127.0.0.1", "readOnlyPort": 0, "healthzPort": 0,
		"tlsCertFile": k.cert("kubelet"), "tlsPrivateKeyFile": k.private("kubelet"),
		"authentication": map[string]any{
			"x509": map[string]any{"clientCAFile": k.cert("ca")}, "webhook": map[string]any{"enabled": true},
			"anonymous": map[string]any{"enabled": false},
		},
		"authorization": map[string]any{"mode": "Webhook"},
		"cgroupDriver":  "cgroupfs", "cgroupRoot": c.Node.CgroupRoot(), "enforceNodeAllocatable": []string{},
		"failCgroupV1": false, "failSwapOn": false, // the machines that the tests run on
		"makeIPTablesUtilChains": false, // the machine's firewall is not ours
		"oomScoreAdj":            0,     // a lower one needs CAP_SYS_RESOURCE
		"evictionHard":           map[string]any{"memory.available": "50Mi"},
		// Only what a test asks for is collected.
		"imageGCHighThresholdPercent": 100, "imageGCLowThresholdPercent": 99,
		// Faster than in a cluster, or the tests would only wait.
		"crashLoopBackOff":            map[string]any{"maxContainerRestartPeriod": "1s"},
		"fileCheckFrequency":          "1s",
		"syncFrequency":               "5s",
		"nodeStatusUpdateFrequency":   "4s",
		"containerLogMonitorInterval": "3s", "containerLogMaxSize": "64Ki", "containerLogMaxFiles": 3,
		"configMapAndSecretChangeDetectionStrategy": "Watch",
		"eventRecordQPS":      0, // no event is lost
		"serializeImagePulls": false,
	}
}

// StartKubelet starts the kubelet and returns when its node is ready.
func (c *Cluster) StartKubelet(t testing.TB) {
	t.Helper()
	if c.ports.kubelet == 0 {
		mustPorts(t, &c.ports.kubelet)
	}
	c.settings["port"] = c.ports.kubelet
	config, err := json.MarshalIndent(c.settings, "", "  ")
	if err != nil {
		t.Fatalf("cluster: %v", err)
	}
	kubeconfig, err := c.writeKubeconfig("kubelet")
	if err != nil {
		t.Fatalf("cluster: %v", err)
	}
	for file, data := range map[string][]byte{"kubelet.json": config,
		"resolv.conf": []byte("nameserver 192.0.2.53\nsearch node.example\n")} {
		if err := os.WriteFile(c.path(file), data, 0o600); err != nil {
			t.Fatalf("cluster: %v", err)
		}
	}
	c.kubelet = c.launch(t, "kubelet", "--config="+c.path("kubelet.json"), "--kubeconfig="+kubeconfig,
		"--root-dir="+c.KubeletDir(), "--cert-dir="+c.path("home"), "--hostname-override="+Node, "--v=3")
	c.kubelet.await(t, func() bool {
		resp, err := c.kubeletGet("/healthz")
		return err == nil && resp == "ok"
	})
	c.Kubectl(t, "wait", "node/"+Node, "--for=create", "--timeout=60s")
	c.Kubectl(t, "wait", "node/"+Node, "--for=condition=Ready", "--timeout=60s")
}

// StopKubelet ends the kubelet. Pods run on.
func (c *Cluster) StopKubelet(t testing.TB) {
	t.Helper()
	if err := c.kubelet.end(syscall.SIGTERM); err != nil {
		t.Fatalf("cluster: %v", err)
	}
}

// KillKubelet ends the kubelet with SIGKILL. Pods run on.
func (c *Cluster) KillKubelet(t testing.TB) {
	t.Helper()
	if err := c.kubelet.end(syscall.SIGKILL); err != nil {
		t.Fatalf("cluster: %v", err)
	}
}

// ReconfigureKubelet restarts the kubelet with its first configuration, changed by change, which may be nil.
func (c *Cluster) ReconfigureKubelet(t testing.TB, change func(config map[string]any)) {
	t.Helper()
	c.StopKubelet(t)
	c.settings = clone(c.base)
	if change != nil {
		change(c.settings)
	}
	c.StartKubelet(t)
}

// KubeletLog is what the kubelet, all runs of it, has logged.
func (c *Cluster) KubeletLog(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(c.kubelet.log)
	if err != nil {
		t.Fatalf("cluster: %v", err)
	}
	return string(data)
}

func clone(m map[string]any) map[string]any { return maps.Clone(m) }

// makeCgroup makes the cgroup below which the kubelet puts pods. The node's teardown removes it.
func makeCgroup(name string) error {
	mounts, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		return err
	}
	if len(mounts) == 0 || !isV1() {
		mounts = []string{"/sys/fs/cgroup/cgroup.procs"}
	}
	for _, mount := range mounts {
		if err := os.MkdirAll(filepath.Join(filepath.Dir(mount), name), 0o755); err != nil {
			return fmt.Errorf("cgroup of the pods: %w", err)
		}
	}
	return nil
}

func isV1() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err != nil
}
