package restore

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
)

// maxLogLine is the longest line that is looked at as a whole, in bytes. Longer ones are cut into partial lines as
// a CRI runtime does, which has 16 KiB.
const maxLogLine = 16 << 10

// isCRILine says whether a line is in the CRI log format: time, stream, tags and message (Kubernetes:
// staging/src/k8s.io/cri-client/pkg/logs/logs.go).
func isCRILine(line []byte) bool {
	fields := bytes.SplitN(line, []byte(" "), 4)
	if len(fields) < 3 {
		return false
	}
	if _, err := time.Parse(time.RFC3339Nano, string(fields[0])); err != nil {
		return false
	}
	return bytes.Equal(fields[1], []byte("stdout")) || bytes.Equal(fields[1], []byte("stderr"))
}

// criLog returns a log in the CRI log format. The kubelet goes by the first line, and so does this: a log whose first
// line is in that format is left as it is. Else lines of Docker's json-file format are converted, and others become
// lines of stdout at the given time. What becomes longer than the limit, in bytes, is an error of class
// errdefs.ErrResourceExhausted.
func criLog(r io.Reader, at time.Time, limit int64) io.Reader {
	buffered := bufio.NewReaderSize(r, maxLogLine)
	first, _ := buffered.Peek(maxLogLine)
	line, _, _ := bytes.Cut(first, []byte("\n"))
	if len(first) == 0 || isCRILine(line) {
		return buffered
	}
	if at.IsZero() {
		at = time.Unix(0, 0)
	}
	return &logConverter{lines: buffered, at: at, left: limit}
}

// logConverter converts while it is read.
type logConverter struct {
	lines *bufio.Reader
	at    time.Time
	left  int64 // bytes that may still be written
	cut   bool  // the last line was a partial one
	out   bytes.Buffer
	err   error
}

func (c *logConverter) Read(p []byte) (int, error) {
	for c.out.Len() == 0 {
		if c.err != nil {
			return 0, c.err
		}
		line, err := c.lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull): // the rest is a line of its own
			c.line(line, "P")
			c.cut = true
		case len(line) > 0 || c.cut:
			c.line(bytes.TrimSuffix(line, []byte("\n")), "F")
			c.cut, c.err = false, err
		default:
			c.err = err
		}
		if c.left -= int64(c.out.Len()); c.left < 0 {
			c.out.Reset()
			c.err = fmt.Errorf("it has more lines than fit into max_log_size in the CRI log format: raise it if that is "+
				"right: %w", errdefs.ErrResourceExhausted)
		}
	}
	return c.out.Read(p)
}

func (c *logConverter) line(line []byte, tag string) {
	at, stream, message := c.at, "stdout", line
	var docker struct {
		Log    *string
		Stream string
		Time   time.Time
	}
	if bytes.HasPrefix(line, []byte("{")) && json.Unmarshal(line, &docker) == nil && docker.Log != nil {
		message = []byte(*docker.Log)
		tag = "P"
		if bytes.HasSuffix(message, []byte("\n")) {
			message, tag = message[:len(message)-1], "F"
		}
		if docker.Stream == "stderr" {
			stream = docker.Stream
		}
		if !docker.Time.IsZero() {
			at = docker.Time
		}
	}
	for _, message := range bytes.Split(message, []byte("\n")) {
		c.out.WriteString(at.UTC().Format(time.RFC3339Nano) + " " + stream + " " + tag + " ")
		c.out.Write(message)
		c.out.WriteByte('\n')
	}
}
