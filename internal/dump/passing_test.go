package dump

import (
	"errors"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// Only what may pass by itself is worth another try.
func TestPassing(t *testing.T) {
	for words, want := range map[string]bool{
		"inet: Connected TCP socket, consider using --tcp-established option.": false,
		"inet: In-flight connection (l) for b":                                 true,
		"sockets: Unsupported proto 262":                                       false,
	} {
		w := newWorld(t)
		w.tasks.criuLog = "(00.1) Error (criu/sk-inet.c:194): " + words + "\n"
		w.tasks.fail["checkpoint"] = errors.New("criu failed")
		_, err := w.take(w.ctx)
		var passing *PassingError
		if got := errors.As(err, &passing); got != want || !strings.Contains(err.Error(), words) || !errdefs.IsFailedPrecondition(err) {
			t.Errorf("passing: %v, %v", got, err)
		}
		w.requireNothing(t)
	}
}
