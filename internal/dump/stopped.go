package dump

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// checkStopped refuses processes that CRIU cannot take hold of: on cgroup v1 it waits without end, and nothing can end it, for one
// that is stopped and frozen (checkpoint-restore/criu#1905), and of one that somebody traces it cannot become the tracer.
func checkStopped(pids []int) error {
	for _, pid := range pids {
		tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/[0-9]*/status", pid))
		if err != nil {
			return err
		}
		for _, status := range tasks {
			data, err := os.ReadFile(status)
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue
			}
			if err != nil {
				return fmt.Errorf("process %d: %w", pid, err)
			}
			if err := checkStatus(data); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkStatus looks at the status of a task (proc_pid_status(5)).
func checkStatus(data []byte) error {
	field := map[string]string{}
	for line := range bytes.Lines(data) {
		if key, value, ok := strings.Cut(string(line), ":"); ok {
			field[key] = strings.TrimSpace(value)
		}
	}
	ids := strings.Fields(field["NSpid"]) // that of each PID namespace, the container's last
	if len(ids) == 0 {
		return nil
	}
	inside := ids[len(ids)-1]
	what := fmt.Sprintf("process %s (%s) of the container, %s on the node", inside, field["Name"], ids[0])
	if tracer, err := strconv.Atoi(field["TracerPid"]); err == nil && tracer != 0 {
		return fmt.Errorf("%s, is traced by process %d: end the debugger (strace, gdb, delve) and try again: %w", what, tracer, errdefs.ErrFailedPrecondition)
	}
	if state := field["State"]; strings.HasPrefix(state, "T") || strings.HasPrefix(state, "t") {
		return fmt.Errorf("%s, is stopped, and CRIU would wait for it without end: let it go on (kill -CONT %s) and try again: %w", what, inside, errdefs.ErrFailedPrecondition)
	}
	return nil
}
