package kubernetes

import "testing"

// TestKubernetes runs the tests on one cluster: first those that may run beside each other, then those that
// restart the kubelet or containerd, or change what all see.
func TestKubernetes(t *testing.T) {
	w := newWorld(t)
	t.Run("lifecycle", w.testLifecycle)
	if t.Failed() {
		return // the others need its checkpoint
	}
	t.Run("beside each other", func(t *testing.T) {
		for name, test := range map[string]func(*testing.T){
			"pull policy":           w.testPullPolicy,
			"user":                  w.testUser,
			"two containers":        w.testTwoContainers,
			"init container":        w.testInitContainer,
			"static pod":            w.testStaticPod,
			"deleted and recreated": w.testRecreated,
			"refused":               w.testRefused,
			"start fails":           w.testStartFails,
			"out of memory":         w.testOutOfMemory,
			"log rotation":          w.testLogRotation,
			"takes part":            w.testTakesPart,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				test(t)
			})
		}
	})
	t.Run("kubelet killed while it creates", w.testKubeletKilled)
	t.Run("restarts", w.testRestarts)
	t.Run("slow registry", w.testSlowRegistry)
	t.Run("deleted in mid-restore", w.testDeletedInMidRestore)
	t.Run("image garbage collection", w.testImageGC)
}
