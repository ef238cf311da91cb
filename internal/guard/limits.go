package guard

import (
	"bytes"
	"fmt"
	"math"
	"strconv"

	"github.com/containerd/errdefs"
)

// lookAtLimits looks at the hard limits of a process and at its OOM score.
func (i *inspection) lookAtLimits(p process) error {
	g := &i.facts.Grant.Process
	if g.Hard != nil {
		data, err := readSmall(p.path("limits"))
		if err != nil {
			return err
		}
		hard, err := hardLimits(data)
		if err != nil {
			return fmt.Errorf("limits of process %d: %w", p.pid, err)
		}
		for n, max := range g.Hard {
			if n < len(hard) && hard[n] > max {
				i.add(Finding{"limits", p.name, fmt.Sprintf("hard limit %d", n), fmt.Sprint(hard[n]), fmt.Sprint(max)})
			}
		}
	}
	if g.OOMScore != nil {
		data, err := readSmall(p.path("oom_score_adj"))
		if err != nil {
			return err
		}
		score, err := strconv.Atoi(string(bytes.TrimSpace(data)))
		if err != nil {
			return fmt.Errorf("OOM score of process %d: %w", p.pid, err)
		}
		if score < *g.OOMScore {
			i.add(Finding{"limits", p.name, "oom_score_adj", fmt.Sprint(score), fmt.Sprint(*g.OOMScore)})
		}
	}
	return nil
}

// hardLimits reads proc_pid_limits(5): a line for each resource in the order of their numbers, with columns of fixed widths.
func hardLimits(data []byte) (hard []uint64, err error) {
	const name, width = 26, 21 // of the name, and of each limit
	for line := range bytes.Lines(data) {
		if len(line) < name+2*width {
			return nil, fmt.Errorf("%q is no limit: %w", line, errdefs.ErrNotImplemented)
		}
		text := string(bytes.TrimSpace(line[name+width : name+2*width]))
		if text == "Hard Limit" {
			continue
		}
		limit := uint64(math.MaxUint64)
		if text != "unlimited" {
			if limit, err = strconv.ParseUint(text, 10, 64); err != nil {
				return nil, err
			}
		}
		hard = append(hard, limit)
	}
	return hard, nil
}
