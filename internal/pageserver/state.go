package pageserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
)

// The files of a page server in CRIU's work directory.
const (
	lockFile   = "page-server.lock"
	resultFile = "page-server.json"
	socketFile = "lazy-pages.socket" // criu/uffd.c
	// LogFile is CRIU's log.
	LogFile = "lazy-pages.log"
)

// Result is what became of a page server that has ended.
type Result struct {
	// Drained is set when all memory had arrived, or was needed no more because the processes had ended.
	Drained bool `json:"drained"`
	// Lost says why memory did not arrive. The container was or is being killed then.
	Lost string `json:"lost,omitempty"`
	// Ended is when.
	Ended time.Time `json:"ended"`
}

// Outcome returns the result of the page server with this work directory. There is none, and the
// error is of class errdefs.ErrNotFound, if it runs, was never started, or was killed with its supervisor.
func Outcome(work string) (*Result, error) {
	data, err := os.ReadFile(filepath.Join(work, resultFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("page server: %w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("page server: %w", err)
	}
	var r Result
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("page server: %s: %w: %w", resultFile, err, errdefs.ErrDataLoss)
	}
	return &r, nil
}

// write puts the result into its file, whole or not at all.
func (r Result) write(work string) error {
	r.Ended = time.Now()
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	file := filepath.Join(work, resultFile)
	if err := os.WriteFile(file+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}
