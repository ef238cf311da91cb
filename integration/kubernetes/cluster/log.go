package cluster

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// FollowLog reads a container's log with kubectl logs until a line is as wanted, and returns what it has read. A
// container that is not there yet, or that ends, is waited for.
func (c *Cluster) FollowLog(ctx context.Context, pod, container string, wanted func(line string) bool) (string, error) {
	var log, why string
	for ctx.Err() == nil {
		var found bool
		var err error
		if log, found, err = c.followOnce(ctx, pod, container, wanted); found {
			return log, nil
		}
		if err != nil {
			why = err.Error()
		}
		select {
		case <-time.After(10 * pause):
		case <-ctx.Done():
		}
	}
	return log, errors.Join(ctx.Err(), errors.New(why))
}

func (c *Cluster) followOnce(ctx context.Context, pod, container string, wanted func(line string) bool) (string, bool,
	error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := c.command(ctx, "logs", "--follow", pod, "-c", container)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return "", false, err
	}
	if err := cmd.Start(); err != nil {
		return "", false, err
	}
	defer func() {
		cancel()
		_ = cmd.Wait()
	}()
	var log strings.Builder
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		log.WriteString(lines.Text() + "\n")
		if wanted(lines.Text()) {
			return log.String(), true, nil
		}
	}
	cancel()
	return log.String(), false, fmt.Errorf("kubectl logs: %w: %s", cmd.Wait(), bytes.TrimSpace(stderr.Bytes()))
}
