package criu

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
)

// Version is a version as CRIU's RPC reports it: 40101 is 4.1.1.
type Version int

// MinVersion is the oldest CRIU with which restores are tested.
const MinVersion Version = 40100

func (v Version) String() string {
	s := fmt.Sprintf("%d.%d", v/10000, v/100%100)
	if v%100 != 0 {
		s += fmt.Sprintf(".%d", v%100)
	}
	return s
}

// maxOutput is how much of criu's output is kept, in bytes.
const maxOutput = 64 << 10

// waitDelay is how long to wait for the output of a criu that was killed.
const waitDelay = 2 * time.Second

var versionLine = regexp.MustCompile(`(?m)^Version: (\d{1,4})\.(\d{1,2})(?:\.(\d{1,2}))?\b`)

// CheckVersion runs "criu --version" and returns the version. It ends with the context.
//
// The error is of class errdefs.ErrFailedPrecondition if the version is too old, with criu's own last lines if it
// fails; if the context ends it is the context's error.
func CheckVersion(ctx context.Context, binary string) (Version, error) {
	// go-criu asks for the version by RPC. A binary that hangs would block it
	// for ever, and its socket is open to every child started meanwhile.
	out, err := run(ctx, binary, "--version")
	if err != nil {
		return 0, err
	}
	v, err := parseVersion(out)
	if err != nil {
		return 0, fmt.Errorf("%s --version: %w", binary, err)
	}
	if v < MinVersion {
		return v, fmt.Errorf("%s is version %s, needed is %s or newer: install a newer CRIU: %w",
			binary, v, MinVersion, errdefs.ErrFailedPrecondition)
	}
	return v, nil
}

// CheckKernel runs "criu check", which looks at the kernel, needs root, and takes a tenth of a second. The error is as
// that of [CheckVersion].
func CheckKernel(ctx context.Context, binary string) error {
	_, err := run(ctx, binary, "check")
	if err != nil && ctx.Err() == nil && !loopbackUp() {
		// CRIU connects to itself to see what TCP can do, and says no more than "Network is unreachable"
		// (criu/kerndat.c, kerndat_tcp_repair).
		return fmt.Errorf("the loopback interface lo is down, without which CRIU does not work: bring it up (ip link set "+
			"lo up): %w", err)
	}
	return err
}

// loopbackUp reports whether the loopback interface of this network namespace is up.
var loopbackUp = func() bool {
	lo, err := net.InterfaceByName("lo")
	return err == nil && lo.Flags&net.FlagUp != 0
}

func parseVersion(out []byte) (Version, error) {
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("no version in its output %q: is this CRIU?: %w", clip(string(out), 200),
			errdefs.ErrFailedPrecondition)
	}
	var v int
	for i, factor := range []int{10000, 100, 1} {
		if len(m[i+1]) == 0 {
			continue
		}
		n, err := strconv.Atoi(string(m[i+1]))
		if err != nil {
			return 0, err
		}
		v += n * factor
	}
	return Version(v), nil
}

// CheckFeature asks CRIU whether the kernel has a feature ("criu check --feature"). The error is as that of
// [CheckVersion].
func CheckFeature(ctx context.Context, binary, feature string) error {
	_, err := run(ctx, binary, "check", "--feature", feature)
	return err
}

// run executes criu and returns the last of what it printed.
func run(ctx context.Context, binary string, args ...string) ([]byte, error) {
	var out tail
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	// "criu check" forks. Its children go with it, they would keep the output open.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = waitDelay

	err := cmd.Run()
	if err == nil {
		return out.buf, nil
	}
	if ctx.Err() != nil {
		return nil, fmt.Errorf("%s %s did not finish: %w", binary, strings.Join(args, " "), ctx.Err())
	}
	said := ""
	if lines := lastWords(out.buf, 5, 2<<10); len(lines) > 0 {
		said = ": " + strings.Join(lines, "; ")
	}
	return nil, fmt.Errorf("%s %s: %w%s: run it as root on this node for all it says: %w",
		binary, strings.Join(args, " "), err, said, errdefs.ErrFailedPrecondition)
}

// lastWords returns criu's error lines, or if it marked none its last lines.
func lastWords(out []byte, maxLines, maxBytes int) []string {
	if lines := errorLines(out, maxLines, maxBytes); len(lines) > 0 {
		return lines
	}
	var lines []string
	for line := range strings.Lines(string(out)) {
		if line = printable(line); line != "" {
			lines = append(lines, line)
		}
	}
	lines = lines[max(0, len(lines)-maxLines):]
	return bound(lines, maxLines, maxBytes)
}

// tail is a writer that keeps the last maxOutput bytes.
type tail struct{ buf []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if extra := len(t.buf) - maxOutput; extra > 0 {
		t.buf = bytes.Clone(t.buf[extra:])
	}
	return len(p), nil
}
