package guard

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// cgroupFile is what the guard has seen of CRIU's cgroups, which are the container's.
const cgroupFile = "cgroup"

// inspection looks at a container whose processes have all that they are going to have, and have not run.
type inspection struct {
	*guard
	findings
	mounts []*mountinfo.Info
	// owned are those in which files belong to somebody, by their IDs: the root file system, the pod's volumes, message
	// queues.
	owned map[int]*mountinfo.Info
	// places are the mounts that files of the container may be in, by their IDs.
	places *places
	// access asks what the pod's user may do with files, nil if he may do everything.
	access *access
	// cgroup is what /proc/PID/cgroup has to be.
	cgroup string
	// labelled says that threads have labels of an LSM.
	labelled bool
	// mapped are mappings of files that need not be looked at again.
	mapped sync.Map
	// namespaces are those of the first process, by their name below /proc/PID/ns.
	namespaces map[string]string
}

// inspect looks at everything and kills all processes if it finds something that the pod was not granted, or cannot look. CRIU does not
// care what its script says at this stage.
func (g *guard) inspect() (err error) {
	began, before := time.Now(), processorTime()
	processes, err := descendants(g.init)
	if err == nil {
		err = g.look(processes)
	}
	g.verdict.Took, g.verdict.CPU = time.Since(began), processorTime()-before
	if g.facts.Audit && (!g.facts.Permitted || g.verdict.ByCheck[accessCheck] == 0) {
		if err != nil {
			g.findingOfFailure(err)
		}
		g.verdict.Inspected = true
		return nil
	}
	if err == nil && g.verdict.Total == 0 {
		g.verdict.Inspected = true
		return nil
	}
	g.verdict.Inspected, g.verdict.Killed = err == nil, true
	// First the reason, so that whoever sees them end can see it.
	werr := g.say(err)
	return errors.Join(err, g.verdict.Found(), werr, kill(g.init, processes))
}

// processorTime is how long processors have worked for this program.
func processorTime() time.Duration {
	var usage unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &usage); err != nil {
		return 0
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// findingOfFailure notes, on a node that only audits, that something could not be looked at.
func (g *guard) findingOfFailure(err error) {
	f := findings{v: &g.verdict}
	f.add(Finding{Check: "inspection", Object: "the container", Field: "inspection", Found: err.Error(), Allowed: "none that fails"})
}

func (g *guard) look(processes []int) (err error) {
	defer caught(&err)
	i := &inspection{guard: g, findings: findings{v: &g.verdict}, owned: map[int]*mountinfo.Info{}}
	cgroup, err := os.ReadFile(filepath.Join(g.dir, cgroupFile))
	if err != nil {
		return fmt.Errorf("cgroup of the container: %w", err)
	}
	i.cgroup = string(cgroup)
	if i.mounts, err = mountsOf(g.init); err != nil {
		return err
	}
	if i.places, err = newPlaces(i.mounts); err != nil {
		return err
	}
	if _, i.labelled, err = labelOf("/proc/self"); err != nil {
		return err
	}
	i.labelled = i.labelled || g.facts.Grant.Process.Label != ""
	if err := errors.Join(i.lookAtMounts(), i.lookAtNamespaces()); err != nil {
		return err
	}
	if i.access, err = newAccess(g.init, g.facts.Grant.Files, i.owned); err != nil {
		return err
	}
	defer i.access.close()
	// Most of the time is the kernel's.
	var (
		wg   sync.WaitGroup
		next = make(chan int)
		errs = make(chan error, len(processes))
	)
	for range min(runtime.GOMAXPROCS(0), 4) {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for pid := range next {
				errs <- i.lookAtProcess(pid)
			}
		}()
	}
	for _, pid := range processes {
		next <- pid
	}
	close(next)
	wg.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	return err
}

// caught makes an error of a panic: the processes must not run because of one.
func caught(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("panic: %v: %s", r, debug.Stack())
	}
}

func (i *inspection) lookAtProcess(pid int) (err error) {
	defer caught(&err)
	status, err := readStatus(proc(pid, "status"))
	if err != nil {
		return err
	}
	if status.state == 'Z' || status.state == 'X' {
		return nil // it has nothing
	}
	p := process{pid: pid, dir: proc(pid, ""), name: fmt.Sprintf("process %d", status.id)}
	if err := i.lookAtThreads(p, status); err != nil {
		return err
	}
	if err := i.lookAtLimits(p); err != nil {
		return err
	}
	if err := i.sameNamespaces(p); err != nil {
		return err
	}
	if err := i.lookAtDescriptors(p); err != nil {
		return err
	}
	return i.lookAtMappings(p)
}

// process is one that is being looked at.
type process struct {
	pid  int
	dir  string // in /proc
	name string // in a finding
}

func (p process) path(name string) string { return p.dir + "/" + name }

// descendants returns the process and all that are below it. With an error come those that were found, so that they can be killed.
func descendants(pid int) ([]int, error) {
	out := []int{pid}
	for at := 0; at < len(out); at++ {
		tasks, err := names(proc(out[at], "task"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return out, fmt.Errorf("process %d has ended", out[at])
		}
		if err != nil {
			return out, err
		}
		for _, tid := range tasks {
			data, err := readSmall(proc(out[at], "task/"+tid+"/children"))
			if err != nil {
				return out, fmt.Errorf("children of process %d: %w", out[at], err)
			}
			out = append(out, numbers(data)...)
		}
	}
	return out, nil
}

// names returns the names in a directory.
func names(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}

// kill kills the processes, which CRIU has stopped and traces, and then CRIU: it would wait for the first one, which cannot end before all
// others of its PID namespace are waited for, and that is for CRIU as their tracer to do.
func kill(init int, processes []int) error {
	if len(processes) == 0 {
		processes = []int{init}
	}
	criu, err := parent()
	if err != nil {
		return fmt.Errorf("kill CRIU: %w", err)
	}
	var errs []error
	for _, pid := range processes {
		if err := signal(pid); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("kill process %d: %w", pid, err))
		}
	}
	if len(errs) > 0 {
		return errors.Join(errs...) // without CRIU one that is not killed would run
	}
	// In a PID namespace that the container joins the guard is in it, too, and CRIU is not to be reached. There the first process does not
	// wait for others, and CRIU fails when it finds them dead.
	if err := signal(criu); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("kill CRIU: %w", err)
	}
	return nil
}

// signal kills a process by its ID in /proc, which in a PID namespace of the container's is another one than for the guard.
func signal(pid int) error {
	fd, err := unix.Open(proc(pid, ""), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return unix.ESRCH
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
}

// parent is the ID of CRIU in /proc, which is the node's.
func parent() (int, error) {
	data, err := readSmall("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if value, ok := bytes.CutPrefix(line, []byte("PPid:")); ok {
			if found := numbers(value); len(found) == 1 && found[0] > 0 {
				return found[0], nil
			}
		}
	}
	return 0, errors.New("/proc/self/status does not say which process is CRIU")
}
