package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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
	// stageReady: everything is as it is going to be, and all processes are stopped. What the script returns is only logged.
	stageReady = "pre-resume"
)

// Run does what is to be done at a stage of CRIU. script is the path by which CRIU has executed the program, getenv its
// environment.
func Run(script string, getenv func(string) string) error {
	var do func(*guard) error
	switch stage := getenv("CRTOOLS_SCRIPT_ACTION"); stage {
	case "":
		return fmt.Errorf("it is started by CRIU while containerd's restore plugin restores a container, and does nothing by itself: %w", errdefs.ErrInvalidArgument)
	case stageNamespaces:
		do = func(g *guard) error { return errors.Join(g.announce(), g.hold()) }
	case stageMounted:
		do = (*guard).held
	case stageRestored:
		do = (*guard).release
	case stageReady:
		do = (*guard).inspect
	default:
		return nil
	}
	g := &guard{dir: filepath.Dir(script)}
	err := g.load(getenv)
	if v, verr := Outcome(g.dir); verr == nil {
		g.verdict = *v
	}
	switch {
	case err == nil:
		err = do(g)
	case getenv("CRTOOLS_SCRIPT_ACTION") == stageReady:
		err = errors.Join(err, g.killAll(getenv))
	}
	if err == nil && !g.verdict.Released {
		return nil // nothing to say yet
	}
	return errors.Join(err, g.say(err))
}

// say leaves the verdict, with what the guard could not do.
func (g *guard) say(failure error) error {
	if failure != nil && g.verdict.Total == 0 {
		g.verdict.Failure = failure.Error()
	}
	return write(filepath.Join(g.dir, verdictFile), g.verdict)
}

// killAll kills the container's processes where no more is known of it.
func (g *guard) killAll(getenv func(string) string) error {
	init, err := strconv.Atoi(getenv("CRTOOLS_INIT_PID"))
	if err != nil {
		return err
	}
	all, err := descendants(init)
	return errors.Join(err, kill(init, all))
}

// guard is one run of the program.
type guard struct {
	dir     string
	facts   *Facts
	init    int // the container's first process
	verdict Verdict
}

func (g *guard) load(getenv func(string) string) (err error) {
	if g.facts, err = loadFacts(g.dir); err != nil {
		return err
	}
	if g.init, err = strconv.Atoi(getenv("CRTOOLS_INIT_PID")); err != nil {
		return fmt.Errorf("CRTOOLS_INIT_PID: %w", err)
	}
	return nil
}

// proc is the path of something of a process.
func proc(pid int, name string) string {
	return strings.TrimSuffix("/proc/"+strconv.Itoa(pid)+"/"+name, "/")
}

// readProc reads a file of a process.
func readProc(pid int, name string) ([]byte, error) { return os.ReadFile(proc(pid, name)) }
