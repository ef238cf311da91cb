package restore

import (
	"context"
	"time"
)

// Command is what a command did that ran in a restored container.
type Command struct {
	// Args are the command and its arguments.
	Args []string `json:"args"`
	// ExitCode is that of the command, 0 as well if it did not end: then Error says so.
	ExitCode int32 `json:"exitCode"`
	// Output is the end of what the command wrote to its standard output and error.
	Output string `json:"output,omitempty"`
	// Error is why the command did not run, or not to its end.
	Error string `json:"error,omitempty"`
	// Took is how long the command ran.
	Took time.Duration `json:"took"`
}

// NoteCommand records what a command did in a restored container.
func (s *Store) NoteCommand(ctx context.Context, id string, c *Command) error {
	return s.update(ctx, id, func(r *Record) { r.Command = c })
}
