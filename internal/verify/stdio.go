package verify

import (
	"errors"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/checkpoint"
)

// stdio compares the kind of the first three descriptors: a terminal can only be restored as a terminal,
// and a process that was started without stdin has nothing to which one could be attached.
func stdio(m *checkpoint.Metadata, is *specs.Spec, stdin bool) error {
	was := m.Spec.Process != nil && m.Spec.Process.Terminal
	will := is.Process != nil && is.Process.Terminal
	switch {
	case was && !will:
		return errors.New("the process had a terminal: set tty: true")
	case !was && will:
		return errors.New("the process had no terminal: set tty: false")
	case was:
		return nil // the terminal is stdin as well
	}
	had := len(m.Stdio) > 0 && strings.HasPrefix(m.Stdio[0], "pipe:")
	switch {
	case had && !stdin:
		return errors.New("the process had an open stdin: set stdin: true")
	case !had && stdin:
		return errors.New("the process had no stdin: set stdin: false")
	}
	return nil
}
