package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/grant"
)

// Program is the name of the program, which is installed beside containerd.
const Program = "restore-guard"

// The files in a restore's directory.
const (
	scriptFile  = Program // a link to the program: its directory is how the program finds the others
	factsFile   = "facts.json"
	verdictFile = "verdict.json"
)

// factsVersion is raised when program and plugin of two versions no longer understand each other.
const factsVersion = 2

// Facts are what the guard has to know of a restore.
type Facts struct {
	// Version is that of this form.
	Version int `json:"version"`
	// Container is the ID of the container.
	Container string `json:"container"`
	// Grant is what the container is granted.
	Grant grant.Container `json:"grant"`
	// Audit says that what is found is only noted.
	Audit bool `json:"audit,omitempty"`
	// Permitted says that the pod's user might have opened all files when the checkpoint was verified. What he may not
	// was then put there meanwhile by somebody else, which is no matter of the checkpoint and is not let through by an
	// audit either.
	Permitted bool `json:"permitted,omitempty"`
	// Namespaces are the node's, those of containerd, by their names below /proc/PID/ns.
	Namespaces map[string]string `json:"namespaces"`
	// Cgroups are the cgroups of containerd, as in /proc/self/cgroup.
	Cgroups string `json:"cgroups"`
}

// Arm makes a restore's directory for the guard, and takes away what an earlier try of the same restore has left there. program is
// the path of restore-guard, p what CRIU is going to read. It returns the path that CRIU is to execute.
func Arm(dir, program string, f Facts, p Paths) (script string, err error) {
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("guard of the restore: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return "", fmt.Errorf("guard of the restore: %w", err)
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", fmt.Errorf("guard of the restore: cgroups of this process: %w", err)
	}
	f.Version, f.Cgroups = factsVersion, string(own)
	if f.Namespaces, err = ownNamespaces("self"); err != nil {
		return "", fmt.Errorf("guard of the restore: namespaces of this process: %w", err)
	}
	if err := errors.Join(write(filepath.Join(dir, factsFile), f), write(filepath.Join(dir, pathsFile), p)); err != nil {
		return "", fmt.Errorf("guard of the restore: %w", err)
	}
	if err := unix.Mkfifo(filepath.Join(dir, criuFile), 0o600); err != nil {
		return "", fmt.Errorf("guard of the restore: %w", err)
	}
	script = filepath.Join(dir, scriptFile)
	if err := os.Symlink(program, script); err != nil {
		return "", fmt.Errorf("guard of the restore: %w", err)
	}
	return script, nil
}

func loadFacts(dir string) (*Facts, error) {
	var f Facts
	if err := read(filepath.Join(dir, factsFile), &f); err != nil {
		return nil, err
	}
	if f.Version != factsVersion {
		return nil, fmt.Errorf("%s is of version %d and containerd's plugin of version %d: install both of the same build: %w",
			Program, factsVersion, f.Version, errdefs.ErrFailedPrecondition)
	}
	return &f, nil
}

// write writes a file whole or not at all.
func write(name string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.WriteFile(name+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(name+".new", name)
}

func read(name string, v any) error {
	data, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("%s: %w: %w", name, err, errdefs.ErrDataLoss)
	}
	return nil
}
