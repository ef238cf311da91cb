package integration

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"

	"github.com/cri-restore/cri-restore/integration/harness"
)

// hostSecret is what is in the file "victim" of the host folder that no container may reach.
const hostSecret = "host secret\n"

// openedByCRIU leads from the root file system of whoever follows it to the host's, while CRIU has its image
// directory open as descriptor 126 (CRIU: include/servicefd.h, IMG_FD_OFF).
func openedByCRIU(dir string) string {
	return "/proc/self/fd/126/" + strings.Repeat("../", 14) + strings.TrimPrefix(dir, "/")
}

// wall is a node that is attacked, once with every wall up, once with a verification that only says what it
// would refuse.
type wall struct {
	n       *harness.Node
	secrets string // a folder of the host that no checkpoint may read or change
}

// taken is a checkpoint, and how far its process had counted at least.
type taken struct {
	archive string
	counted int
}

// with is another archive of the same process.
func (k taken) with(archive string) taken { return taken{archive, k.counted} }

// setUp makes what a restored pod has. It is called for every attempt. What between does happens between the
// container's creation and its start; it may be nil.
type setUp func(t *testing.T) (opts []harness.ContainerOpt, between func())

// always is for a pod that has nothing to be made for it.
func always(opts ...harness.ContainerOpt) setUp {
	return func(*testing.T) ([]harness.ContainerOpt, func()) { return opts, nil }
}

// stop is where an attack ends. The zero value is nowhere.
type stop struct {
	at    string // "create" or "start"
	code  codes.Code
	words []string
}

// refusedWith is the refusal of the verification.
func refusedWith(words ...string) stop {
	return stop{at: "create", code: codes.PermissionDenied, words: words}
}

// wallAttack is a restore that would reach further than its pod, or the honest one that looks like it.
type wallAttack struct {
	name string
	taken
	setUp setUp
	// strict is what stops it with every wall up, audit what does if verification only speaks, and unverified what does
	// without any. Where it is the zero value only the verification stops the attack, in audit mode as well.
	strict, audit, unverified stop
	use                       func(t *testing.T, c *harness.Container)
	touches                   func() []string
	ownPod                    bool
	pod                       *harness.Pod
}

// attack is one that is stopped at the same place whether the node audits or not.
func attack(name string, k taken, pod setUp, by stop) wallAttack {
	a := wallAttack{name: name, taken: k, setUp: pod, strict: by}
	return a.audited(by)
}

// twin is an honest restore.
func twin(name string, k taken, pod setUp) wallAttack {
	return wallAttack{name: strings.TrimSuffix("twin "+name, " "), taken: k, setUp: pod}
}

// audited says what stops the attack in audit mode. What does so at the start is no verification.
func (a wallAttack) audited(by stop) wallAttack {
	a.audit = by
	if by.at == "start" {
		a.unverified = by
	}
	return a
}

// beyond says what stops an attack that would otherwise be refused in every mode.
func (a wallAttack) beyond(by stop) wallAttack {
	a.unverified = by
	return a
}

// does says what the process is made to do if it runs.
func (a wallAttack) does(use func(t *testing.T, c *harness.Container)) wallAttack {
	a.use = use
	return a
}

// keeps names directories that must stay as they are besides the host's. It is asked after setUp.
func (a wallAttack) keeps(touches func() []string) wallAttack {
	a.touches = touches
	return a
}

// in says in which pod it is tried: one of its own if p is nil, as what all containers of a pod share is changed.
func (a wallAttack) in(p *harness.Pod) wallAttack {
	a.pod, a.ownPod = p, p == nil
	return a
}

func newWall(t *testing.T, opts ...harness.Option) *wall {
	t.Helper()
	n := harness.New(t, append([]harness.Option{harness.WithRestoreConfig(allowArchives)}, opts...)...)
	return &wall{n: n, secrets: filepath.Join(n.Dir(), "secrets")}
}

// checkpoint runs a container until it has counted, and returns its checkpoint.
func (w *wall) checkpoint(t *testing.T, image string, opts ...harness.ContainerOpt) taken {
	t.Helper()
	pod := w.n.Pod(t)
	defer pod.Remove()
	c := pod.Run("counter", w.n.Image(image), opts...)
	counted := c.WaitCount(3)
	return taken{checkpointOf(t, c), counted}
}

// restrictedCheckpoint is checkpoint for a process of the restricted user.
func (w *wall) restrictedCheckpoint(t *testing.T, image string, opts ...harness.ContainerOpt) taken {
	t.Helper()
	return w.checkpoint(t, image, append(restricted(appUser), opts...)...)
}

// diffed is a checkpoint with other changes to the root file system.
func (w *wall) diffed(t *testing.T, k taken, entries ...tarEntry) taken {
	t.Helper()
	diff := regularEntry("rootfs-diff.tar", string(gzipBytes(t, packed(t, entries))))
	return k.with(doctoredArchive(t, w.n, withEntries(entriesOf(t, k.archive), diff)))
}

// modes are how a node is when it is attacked: with every wall up, with a verification that only speaks, without any.
var modes = []struct {
	name string
	// node changes it, from the one before.
	node func(*harness.Tools) []harness.Option
	stop func(wallAttack) stop
}{
	{"strict", nil, func(a wallAttack) stop { return a.strict }},
	{"audit", func(*harness.Tools) []harness.Option {
		return []harness.Option{harness.WithRestoreConfig(`verification = "audit"`)}
	}, func(a wallAttack) stop { return a.audit }},
	{"unverified", func(tools *harness.Tools) []harness.Option {
		return []harness.Option{harness.WithRestoreConfig(`verification = "strict"`),
			harness.WithEnv(switchUnverified + "=1"), harness.WithBinary(filepath.Join(tools.Bin, "test", "containerd"))}
	}, func(a wallAttack) stop { return a.unverified }},
}

// all tries the attacks in all modes, and the honest restores in those that somebody may choose.
func (w *wall) all(t *testing.T, attacks ...wallAttack) {
	t.Helper()
	for _, mode := range modes {
		if mode.name == "unverified" {
			attacks = slices.DeleteFunc(attacks, func(a wallAttack) bool { return a.unverified.at == "" })
		}
		if len(attacks) == 0 {
			return
		}
		if mode.node != nil {
			w.n.Reconfigure(mode.node(w.n.Tools())...)
		}
		t.Run(mode.name, func(t *testing.T) {
			shared := w.n.Pod(t)
			for _, a := range attacks {
				t.Run(a.name, func(t *testing.T) {
					pod := shared
					switch {
					case a.ownPod:
						pod = w.n.Pod(t)
					case a.pod != nil:
						pod = a.pod
					}
					w.try(t, pod, a, mode.stop(a))
				})
			}
		})
	}
}

// try fails the test unless the attack ends where it should and has touched nothing.
func (w *wall) try(t *testing.T, pod *harness.Pod, a wallAttack, want stop) {
	t.Helper()
	n := w.n.In(t)
	w.fillSecrets(t)
	opts, between := a.setUp(t)
	watched := []string{w.secrets}
	if a.touches != nil {
		watched = append(watched, a.touches()...)
	}
	before, was, daemon := n.Inventory(t), stateOf(t, watched), n.DaemonPid()
	at, c, err := attempt(pod, a.archive, opts, between)
	if err == nil && want.at == "" {
		requireContinues(t, c, a.counted)
		if a.use != nil {
			a.use(t, c)
		}
	} else if err == nil {
		t.Errorf("the process runs: %v", processStatus(t, c))
		if a.use != nil {
			a.use(t, c)
		}
	} else if at != want.at {
		t.Errorf("it ended at %q, want %q: %v", at, want.at, err)
	} else {
		requireRefused(t, err, want.code, want.words...)
	}
	if n.DaemonPid() != daemon {
		n.Start()
		t.Fatal("containerd has died of it")
	}
	if c != nil {
		c.Remove()
		forgetLog(t, c)
	}
	if want.at != "" {
		requireState(t, watched, was)
	}
	n.RequireNoLeak(t, before)
}

// attempt creates and starts a container. It returns what failed, or the container that runs.
func attempt(
	pod *harness.Pod, archive string, opts []harness.ContainerOpt, between func(),
) (at string, c *harness.Container, err error) {
	if c, err = pod.TryCreate("victim", archive, opts...); err != nil {
		return "create", nil, err
	}
	if between != nil {
		between()
	}
	return "start", c, c.TryStart()
}

// fillSecrets makes the host's folder anew.
func (w *wall) fillSecrets(t *testing.T) {
	t.Helper()
	if err := os.RemoveAll(w.secrets); err != nil {
		t.Fatal(err)
	}
	writeHostFile(t, filepath.Join(w.secrets, "victim"), hostSecret)
	if err := os.Mkdir(filepath.Join(w.secrets, "empty"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// stateOf describes all that is in some directories. The time of the last change shows what was made and removed, too.
func stateOf(t *testing.T, dirs []string) map[string]string {
	t.Helper()
	state := map[string]string{}
	for _, dir := range dirs {
		err := filepath.Walk(dir, func(file string, info os.FileInfo, err error) error {
			if err != nil {
				return err
			}
			st := info.Sys().(*syscall.Stat_t)
			state[file] = fmt.Sprintf("mode %#o, owner %d:%d, size %d, changed %d.%09d",
				st.Mode, st.Uid, st.Gid, st.Size, st.Ctim.Sec, st.Ctim.Nsec)
			if info.Mode().IsRegular() {
				content, err := os.ReadFile(file)
				state[file] += fmt.Sprintf(", content %.100q", content)
				return err
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return state
}

// requireState fails the test if anything in the directories has changed.
func requireState(t *testing.T, dirs []string, was map[string]string) {
	t.Helper()
	is := stateOf(t, dirs)
	names := slices.Collect(maps.Keys(is))
	names = append(names, slices.Collect(maps.Keys(was))...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if is[name] != was[name] {
			t.Errorf("%s of the host: %s; it was %s", name, is[name], was[name])
		}
	}
}

// readsAndWrites is the script of a process that has a file open, and on a signal reads a line of it and writes one.
func readsAndWrites(file string) string {
	return `exec 3<>` + file + `; trap 'read x <&3; echo "read $x"; echo pwned >&3' USR1
		` + counting
}

const counting = `i=0; while :; do i=$((i+1)); echo "count $i"; sleep 0.1; done`

// signalled has such a process read, and wants a line.
func signalled(want string) func(*testing.T, *harness.Container) {
	return func(t *testing.T, c *harness.Container) {
		t.Helper()
		if err := unix.Kill(c.Pid(), unix.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		c.WaitLog(func(lines []string) bool {
			return slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, "read ") })
		})
		if !slices.Contains(c.Log(), "read "+want) {
			t.Errorf("the process has not read %q: %q", want, c.Log())
		}
	}
}
