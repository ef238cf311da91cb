package criu

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"github.com/cri-restore/cri-restore/internal/regular"
)

// errorMark is how CRIU's log marks an error (criu/include/log.h). What stands
// before it is the time, the process, and "pie:" for CRIU's code in the process.
const errorMark = "Error ("

// maxTail is how much of the end of a log is searched, in bytes. At the highest
// verbosity CRIU writes some 100 KiB per process; errors come last.
const maxTail = 4 << 20

// ErrorLines returns CRIU's own error lines from a restore.log or dump.log,
// without times and pids, each once, at most maxLines lines and maxBytes bytes.
// The first ones are kept: they are the cause of those that follow. Only the
// last 4 MiB of the file are read. No line means that CRIU logged no error.
//
// The log quotes names from the checkpoint, so control characters are replaced.
// The file is opened without following a link. The error is of class
// errdefs.ErrNotFound if there is no log, errdefs.ErrInvalidArgument if it is
// not a regular file.
func ErrorLines(path string, maxLines, maxBytes int) ([]string, error) {
	f, size, err := regular.Open(path)
	if err != nil {
		return nil, fmt.Errorf("criu log %s: %w", path, err)
	}
	defer f.Close()

	start := max(0, size-maxTail)
	data, err := io.ReadAll(io.NewSectionReader(f, start, maxTail))
	if err != nil {
		return nil, fmt.Errorf("criu log %s: %w", path, err)
	}
	if start > 0 {
		// The first line is cut, and may be the end of something else.
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
	return errorLines(data, maxLines, maxBytes), nil
}

// harmless are error lines after which CRIU goes on, or that only say that it
// failed. They come last, so that they do not hide the cause: without
// CAP_SYS_RESOURCE every log begins with the first.
var harmless = []string{
	"rlimit: Can't setup RLIMIT_NOFILE for self",
	"cg: cgroupd: recv req error",
	"Restoring FAILED",
}

func errorLines(data []byte, maxLines, maxBytes int) []string {
	var lines, last []string
	seen := make(map[string]bool)
	for line := range bytes.Lines(data) {
		if len(lines) >= maxLines {
			break
		}
		i := bytes.Index(line, []byte(errorMark))
		if i < 0 {
			continue
		}
		s := printable(string(line[i:min(len(line), i+max(maxBytes, 0)+1)]))
		if seen[s] {
			continue
		}
		seen[s] = true
		if slices.ContainsFunc(harmless, func(h string) bool { return strings.Contains(s, h) }) {
			last = append(last, s)
		} else {
			lines = append(lines, s)
		}
	}
	return bound(append(lines, last...), maxLines, maxBytes)
}

// bound keeps the first lines within the limits and cuts the last if it does
// not fit.
func bound(lines []string, maxLines, maxBytes int) []string {
	lines = lines[:min(len(lines), max(maxLines, 0))]
	for i, line := range lines {
		if len(line) <= maxBytes {
			maxBytes -= len(line)
			continue
		}
		if maxBytes > len("...") {
			lines[i] = clip(line, maxBytes)
			i++
		}
		return lines[:i]
	}
	return lines
}

// clip cuts s to n bytes, at a character, and marks the cut.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-len("...")], "") + "..."
}

// printable trims a line and replaces what a terminal would act on.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == unicode.ReplacementChar {
			return '?'
		}
		return r
	}, strings.TrimSpace(strings.ToValidUTF8(s, "?")))
}
