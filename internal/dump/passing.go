package dump

import (
	"slices"
	"strings"
)

// connections are CRIU's words for TCP connections that it does not dump (CRIU: criu/sk-inet.c): those that no process has accepted yet.
var connections = []string{"In-flight connection"}

// PassingError is the error of a container that CRIU could not dump for a reason that may pass in a moment: somebody has
// just connected to it, as the kubelet's probes do.
type PassingError struct{ err error }

func (e *PassingError) Error() string { return e.err.Error() }

func (e *PassingError) Unwrap() error { return e.err }

// passing makes CRIU's error one that may pass, if these lines of its log say so.
func passing(err error, lines []string) error {
	if slices.ContainsFunc(lines, func(line string) bool {
		return slices.ContainsFunc(connections, func(words string) bool { return strings.Contains(line, words) })
	}) {
		return &PassingError{err}
	}
	return err
}
