package pageserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
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

// reserved is the size of the result's file, in bytes.
const reserved = 4096

// outcome is the open file of a result that is still to come.
type outcome struct{ f *os.File }

// reserve makes the file of the result, blank. It has its place on the disk and is open before it is needed: a disk
// that is full when all memory has arrived would otherwise cost the container its life.
func reserve(work string) (*outcome, error) {
	f, err := os.OpenFile(filepath.Join(work, resultFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(bytes.Repeat([]byte(" "), reserved)); err != nil {
		f.Close()
		return nil, err
	}
	return &outcome{f: f}, nil
}

// Close releases the file, as it is.
func (o *outcome) Close() error { return o.f.Close() }

// write writes a result over what is in the file.
func (o *outcome) write(r Result) error {
	r.Ended = time.Now()
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	data = append(data, bytes.Repeat([]byte(" "), max(0, reserved-len(data)))...)
	_, err = o.f.WriteAt(data, 0)
	return err
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
	if len(bytes.TrimSpace(data)) == 0 {
		return nil, fmt.Errorf("page server: %s is blank: %w", resultFile, errdefs.ErrNotFound)
	}
	var r Result
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("page server: %s: %w: %w", resultFile, err, errdefs.ErrDataLoss)
	}
	return &r, nil
}
