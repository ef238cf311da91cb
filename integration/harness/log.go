package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fsnotify/fsnotify"
)

// waitTimeout is how long something that must come is waited for. It is far above what an idle machine needs: tests
// that run beside much other work must not fail for it.
const waitTimeout = 2 * time.Minute

// LogLine is one line of a CRI log file (kubernetes: design-proposals, "CRI logging").
type LogLine struct {
	Time   time.Time
	Stream string // "stdout" or "stderr"
	Text   string // without the line's end
}

// LogFile is the path of the container's log on the host.
func (c *Container) LogFile() string {
	return filepath.Join(c.Pod.Config.GetLogDirectory(), c.Config.GetLogPath())
}

// LogLines returns the complete lines of the container's log. A log that does not
// exist has no lines; one with a malformed line fails the test.
func (c *Container) LogLines() []LogLine {
	c.t.Helper()
	data, err := os.ReadFile(c.LogFile())
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		c.t.Fatalf("harness: %v", err)
	}
	lines, err := parseLog(string(data))
	if err != nil {
		c.t.Fatalf("harness: %s: %v", c.LogFile(), err)
	}
	return lines
}

// Log returns the texts of the container's log lines, both streams.
func (c *Container) Log() []string {
	c.t.Helper()
	var texts []string
	for _, line := range c.LogLines() {
		texts = append(texts, line.Text)
	}
	return texts
}

// WaitLog returns the log's lines as soon as enough accepts them. It fails the
// test after 30 seconds, or when the container has exited without them.
func (c *Container) WaitLog(enough func(lines []string) bool) []string {
	c.t.Helper()
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		c.t.Fatalf("harness: %v", err)
	}
	defer watcher.Close()
	// The folder: the file may not exist yet.
	if err := watcher.Add(filepath.Dir(c.LogFile())); err != nil {
		c.t.Fatalf("harness: %v", err)
	}
	ctx, cancel := deadlineContext(c.t, waitTimeout)
	defer cancel()
	exited := make(chan struct{})
	go func() {
		// An error (a restart of the daemon, for instance) says nothing about the container.
		if c.waitTask(ctx) == nil {
			close(exited)
		}
	}()
	for gone := false; ; {
		lines := c.Log()
		if enough(lines) {
			return lines
		}
		if gone {
			c.t.Fatalf("harness: container %s exited; its log has %d lines, not those awaited:\n%s",
				c.Config.GetMetadata().GetName(), len(lines), strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
		select {
		case <-exited:
			// CRI has closed the log before it reports the exit.
			c.WaitExited()
			gone = true
		case <-watcher.Events:
		case err := <-watcher.Errors:
			c.t.Fatalf("harness: watch %s: %v", c.LogFile(), err)
		case <-ctx.Done():
			c.t.Fatalf("harness: log of container %s (%s) after %v has %d lines, not those awaited; the last:\n%s",
				c.Config.GetMetadata().GetName(), c.Status().GetState(), waitTimeout, len(lines),
				strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	}
}

// WaitLine waits for a line that contains text.
func (c *Container) WaitLine(text string) {
	c.t.Helper()
	c.WaitLog(func(lines []string) bool {
		return slices.ContainsFunc(lines, func(line string) bool { return strings.Contains(line, text) })
	})
}

// WaitCount waits until a Counting container has counted to at least count, and
// returns how far it is.
func (c *Container) WaitCount(count int) int {
	c.t.Helper()
	return Count(c.WaitLog(func(lines []string) bool { return Count(lines) >= count }))
}

// Count returns the number in the last "count N" line, 0 without one.
func Count(lines []string) int {
	for _, line := range slices.Backward(lines) {
		if text, ok := strings.CutPrefix(line, "count "); ok {
			if count, err := strconv.Atoi(strings.TrimSpace(text)); err == nil {
				return count
			}
		}
	}
	return 0
}

func parseLog(data string) ([]LogLine, error) {
	var lines []LogLine
	partial := map[string]string{}
	for number, raw := range strings.SplitAfter(data, "\n") {
		raw, complete := strings.CutSuffix(raw, "\n")
		if !complete {
			break // still being written
		}
		fields := strings.SplitN(raw, " ", 4)
		if len(fields) != 4 {
			return nil, fmt.Errorf("line %d is not a CRI log line: %q", number+1, raw)
		}
		at, err := time.Parse(time.RFC3339Nano, fields[0])
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number+1, err)
		}
		stream, tag, text := fields[1], fields[2], fields[3]
		if stream != "stdout" && stream != "stderr" {
			return nil, fmt.Errorf("line %d has stream %q", number+1, stream)
		}
		partial[stream] += text
		if tag != "P" {
			lines = append(lines, LogLine{Time: at, Stream: stream, Text: partial[stream]})
			delete(partial, stream)
		}
	}
	return lines, nil
}
