package integration

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestRestoreStandardOutput restores programs that open /dev/stdout and /dev/stderr by their names, as nginx does when
// its configuration is read again: the pipes are the user's, as in an ordinary container.
func TestRestoreStandardOutput(t *testing.T) {
	t.Parallel()
	n := harness.New(t, harness.WithRestoreConfig(allowArchives))
	writing := harness.Shell(`i=0; while :; do i=$((i+1)); echo "count $i" > /dev/stdout || echo BAD
		echo > /dev/stderr || echo BAD; sleep 0.1; done 2>/dev/null`)
	for _, user := range []int64{appUser, 0} {
		for what, opts := range map[string][]harness.ContainerOpt{
			"output": {writing}, "input": {writing, harness.Stdin()}, "terminal": {writing, harness.Stdin(), harness.Tty()},
		} {
			t.Run(fmt.Sprintf("%s of %d", what, user), func(t *testing.T) {
				pod := n.In(t).Pod(t)
				c := pod.Run("counter", n.Image(harness.Busybox), append(restricted(user), opts...)...)
				counted := c.WaitCount(3)
				archive := checkpointOf(t, c)
				pod.Remove()

				pod = n.In(t).Pod(t)
				opts = append(restricted(user), opts...)
				ordinary := pod.Run("ordinary", n.Image(harness.Busybox), opts...)
				restored := pod.Run("restored", archive, opts...)
				requireOpens(t, restored, counted)
				owners := func(c *harness.Container) string {
					return c.Exec("stat", "-L", "-c", "%a %u %g", "/proc/1/fd/0", "/proc/1/fd/1")
				}
				if got, want := owners(restored), owners(ordinary); got != want {
					t.Errorf("standard input and output: got\n%swant as in an ordinary container\n%s", got, want)
				}
				// By which a program of docker exec, or a script of cron, writes to the container's log.
				restored.Exec("/bin/sh", "-c", "echo by another process > /proc/1/fd/1")
				restored.WaitLine("by another process")
				pod.Remove()
			})
		}
	}
}

// requireOpens waits until a container has counted on, and fails the test if it could not open its standard output.
func requireOpens(t *testing.T, c *harness.Container, counted int) {
	t.Helper()
	lines := c.WaitLog(func(lines []string) bool {
		return harness.Count(lines) > counted+5 ||
			slices.Contains(lines, "BAD")
	})
	if slices.Contains(lines, "BAD") {
		t.Fatalf("/dev/stdout could not be opened:\n%q", lines)
	}
}
