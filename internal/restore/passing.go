package restore

import (
	"errors"
	"fmt"
	"os"
	"strings"
)

// The options that are in a container's CRIU configuration only while CRIU restores it, at its end. With the first a
// later checkpoint of the container would wait for somebody to fetch its pages, with the second it would run a program
// that may no longer be there.
const (
	optionLazy   = "lazy-pages\n"
	optionScript = "action-script="
)

// passing are these options.
type passing struct {
	lazy   bool
	script string // the path of the action script, "" for none
}

// cutPassing separates them from the rest of a configuration.
func cutPassing(content string) (base string, p passing) {
	for {
		if rest, ok := strings.CutSuffix(content, optionLazy); ok {
			content, p.lazy = rest, true
			continue
		}
		i := strings.LastIndex(strings.TrimSuffix(content, "\n"), "\n") + 1
		script, ok := strings.CutPrefix(content[i:], optionScript)
		if !ok || !strings.HasSuffix(strings.TrimSuffix(script, "\n"), scriptName) {
			return content, p
		}
		content, p.script = content[:i], strings.TrimSuffix(script, "\n")
	}
}

func (p passing) String() string {
	var b strings.Builder
	if p.script != "" {
		b.WriteString(optionScript + p.script + "\n")
	}
	if p.lazy {
		b.WriteString(optionLazy)
	}
	return b.String()
}

// configure changes the options in the container's CRIU configuration.
func (s *Store) configure(r *Record, change func(*passing)) error {
	file := s.Dirs.Config(r.ID)
	content, err := os.ReadFile(file)
	base, p := cutPassing(string(content))
	change(&p)
	if errors.Is(err, os.ErrNotExist) && p == (passing{}) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("CRIU configuration of restore %s: %w", r.ID, err)
	}
	want := base + p.String()
	if want == string(content) {
		return nil
	}
	// Whole or not at all: it says more than this.
	if err = os.WriteFile(file+".new", []byte(want), 0o600); err == nil {
		err = os.Rename(file+".new", file)
	}
	if err != nil {
		return fmt.Errorf("CRIU configuration of restore %s: %w", r.ID, err)
	}
	return nil
}
