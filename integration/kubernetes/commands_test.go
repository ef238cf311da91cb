package kubernetes

import (
	"strings"
	"testing"
)

// testTakesPart has a program take part in its checkpoint, and in its restore before the pod's postStart.
func (w *world) testTakesPart(t *testing.T) {
	said := func(annotation, text string) string {
		return `org.criu.restore/` + annotation + `: '{"counter": ["sh", "-c", "` + text + `"]}'`
	}
	asks := said("before-checkpoint", "echo quiet >/proc/1/fd/1") + ", " +
		said("after-checkpoint", "echo over >/proc/1/fd/1")
	ck := w.checkpointOf(t, "partakes", w.base, "annotations: {"+asks+"}\n", counting(""))
	w.Apply(t, manifest("partakes", "annotations: {"+said("after-restore", "echo told >/told")+"}\n", container("counter",
		ck.image, `, lifecycle: {postStart: {exec: {command: [sh, -c, "echo postStart was $(cat /told) >/proc/1/fd/1"]}}}`)))
	log := w.waitLog(t, "partakes", "counter", func(line string) bool { return strings.Contains(line, "postStart was") })
	if !strings.Contains(log, "postStart was told") || !strings.Contains(log, "quiet\n") ||
		strings.Contains(log, "over\n") {
		t.Errorf("the log: %s", log)
	}
	w.waitCount(t, "partakes", "counter", ck.counted)
	w.delete(t, "partakes")
}
