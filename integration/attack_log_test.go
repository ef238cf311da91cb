package integration

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// TestAttackLog gives container.log what containerd would never have logged. It is the container's
// own log, at the request's path: what is in it is copied as it is if its first line is one of a log, and else becomes
// lines of one; and what the process logs afterwards stands on lines of its own.
func TestAttackLog(t *testing.T) {
	t.Parallel()
	a := newTarget(t)
	const line = "2026-01-01T00:00:00.000000000Z stdout F "
	for name, old := range map[string]string{
		"forged times and " +
			"streams": "2199-01-01T00:00:00.000000000Z stderr P of tomorrow\n0001-01-01T00:00:00Z stdin X none\n",
		"for a terminal":             line + "\x1b[2J\x1b]0;evil\a\x9b\x00\n",
		"no last line feed":          line + "count 1\n" + line + "cut o",
		"no line feed at all":        strings.Repeat("x", 512<<10),
		"only line feeds":            strings.Repeat("\n", 4096),
		"another log's line in it":   line + "a\r" + line + "b\v\u2028" + line + "c\n",
		"no log of a container":      "\x1f\x8b\x08\x00\xff\xfe{\"log\":\"evil\\n\"}\n",
		"honest twin, as it was":     contentOf(t, a.honest, "container.log"),
		"nothing, as if never begun": "",
	} {
		t.Run(name, func(t *testing.T) {
			archive := doctoredArchive(t, a.n, withEntries(a.honest, regularEntry("container.log", old)))
			a.accepts(t, archive, func(c *harness.Container) {
				want := old
				if old != "" && !strings.HasSuffix(old, "\n") {
					want += "\n"
				}
				before := readFile(t, c.LogFile())
				got := before
				if first, _, _ := strings.Cut(old, "\n"); old != "" && !strings.Contains(first, " stdout F ") &&
					!strings.Contains(first, " stderr P ") {
					got = messages(t, before)
				}
				if got != want {
					t.Errorf("log before the start: %.300q, want %.300q", got, want)
				}
				c.Start()
				awaitNewLines(t, c, before)
			})
		})
	}
	a.goesOn(t)
}

// messages joins the messages of a log in the CRI format.
func messages(t *testing.T, log string) string {
	t.Helper()
	var out strings.Builder
	for line := range strings.Lines(log) {
		fields := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
		if len(fields) != 4 || fields[1] != "stdout" {
			t.Fatalf("line %.300q", line)
		}
		if out.WriteString(fields[3]); fields[2] == "F" {
			out.WriteByte('\n')
		}
	}
	return out.String()
}

// awaitNewLines waits until the process has logged below the old text, in containerd's form.
func awaitNewLines(t *testing.T, c *harness.Container, old string) {
	t.Helper()
	_, err := backoff.Retry(t.Context(), func() (any, error) {
		text, ok := strings.CutPrefix(readFile(t, c.LogFile()), old)
		if !ok {
			return nil, backoff.Permanent(fmt.Errorf("the old text is gone: %.300q", text))
		}
		lines := strings.Split(text, "\n")
		if len(lines) < 5 {
			return nil, fmt.Errorf("the process has logged %q", lines)
		}
		for _, line := range lines[:len(lines)-1] {
			if fields := strings.Fields(line); len(fields) != 5 || fields[1] != "stdout" || fields[2] != "F" ||
				fields[3] != "count" {
				return nil, backoff.Permanent(fmt.Errorf("a new line is %q", line))
			}
		}
		return nil, nil
	}, backoff.WithBackOff(backoff.NewConstantBackOff(100*time.Millisecond)), backoff.WithMaxElapsedTime(30*time.Second))
	if err != nil {
		t.Error(err)
	}
}
