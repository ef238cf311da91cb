package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
)

// The stages at which CRIU runs its script and the guard does something (CRIU: action-scripts.c, cr-restore.c). At all
// others, those of a checkpoint among them, it does nothing.
const (
	// stageNamespaces: the first process is there and nothing is mounted.
	stageNamespaces = "setup-namespaces"
	// stageMounted: the mounts are made and no file is opened.
	stageMounted = "post-setup-namespaces"
	// stageRestored: all is restored but credentials and seccomp filters, and no process has run. If the script fails
	// CRIU kills the processes, and the restore fails.
	stageRestored = "post-restore"
)

// Run does what is to be done at a stage of CRIU. script is the path by which CRIU has executed the program, getenv its
// environment.
func Run(script string, getenv func(string) string) error {
	var do func(*guard) error
	switch stage := getenv("CRTOOLS_SCRIPT_ACTION"); stage {
	case "":
		return fmt.Errorf("it is started by CRIU while containerd's restore plugin restores a container, and does nothing by itself: %w", errdefs.ErrInvalidArgument)
	case stageNamespaces:
		do = (*guard).hold
	case stageMounted:
		do = (*guard).held
	case stageRestored:
		do = (*guard).release
	default:
		return nil
	}
	g := &guard{dir: filepath.Dir(script)}
	err := g.load(getenv)
	if err == nil {
		err = do(g)
	}
	if err != nil {
		g.verdict.Failure = err.Error()
	}
	if err == nil && !g.verdict.Released {
		return nil // nothing to say yet
	}
	return errors.Join(err, write(filepath.Join(g.dir, verdictFile), g.verdict))
}

// guard is one run of the program.
type guard struct {
	dir     string
	facts   *Facts
	spec    *spec
	init    int // the container's first process
	verdict Verdict
}

func (g *guard) load(getenv func(string) string) (err error) {
	if g.facts, err = loadFacts(g.dir); err != nil {
		return err
	}
	if g.spec, err = loadSpec(g.facts.Bundle); err != nil {
		return err
	}
	if g.init, err = strconv.Atoi(getenv("CRTOOLS_INIT_PID")); err != nil {
		return fmt.Errorf("CRTOOLS_INIT_PID: %w", err)
	}
	return nil
}

// proc is the path of something of a process.
func proc(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}

// readProc reads a file of a process.
func readProc(pid int, name string) ([]byte, error) { return os.ReadFile(proc(pid, name)) }
