// Command dump writes the profiles of this folder and, for each, the filter that the
// runc of this machine installs for it:
//
//	go run ./internal/seccomp/testdata/dump -runc bin/runc internal/seccomp/testdata
//
// It needs root. The filter is that of the first process of a container
// that was created and not started, read as CRIU does (PTRACE_SECCOMP_GET_FILTER).
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func main() {
	runc := flag.String("runc", "runc", "the runc binary")
	flag.Parse()
	for name, profile := range profiles() {
		if err := dump(*runc, filepath.Join(flag.Arg(0), name), profile); err != nil {
			log.Fatalf("%s: %v", name, err)
		}
	}
}

// profiles are those of the tests. runc itself runs under them, so that none can be small.
func profiles() map[string]*specs.LinuxSeccomp {
	with := func(caps ...string) *specs.LinuxSeccomp {
		return seccomp.DefaultProfile(&specs.Spec{Process: &specs.Process{
			Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	}
	errno := uint(38)
	on := func(action specs.LinuxSeccompAction, name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: action, Args: args}
	}
	arg := func(index uint, op specs.LinuxSeccompOperator, value uint64, two ...uint64) specs.LinuxSeccompArg {
		a := specs.LinuxSeccompArg{Index: index, Op: op, Value: value}
		if len(two) > 0 {
			a.ValueTwo = two[0]
		}
		return a
	}
	args := with()
	args.Syscalls = append(args.Syscalls,
		on(specs.ActAllow, "keyctl", arg(0, specs.OpGreaterEqual, 5), arg(1, specs.OpLessEqual, 0x1_0000_0007)),
		on(specs.ActAllow, "quotactl", arg(2, specs.OpGreaterThan, 0xffff_ffff)),
		on(specs.ActAllow, "kcmp", arg(0, specs.OpLessThan, 0x2_0000_0000), arg(4, specs.OpNotEqual, 9)),
		on(specs.ActAllow, "add_key", arg(3, specs.OpMaskedEqual, 0xff00_0000_ff00, 0x1200_0000_3400)),
		on(specs.ActAllow, "request_key", arg(1, specs.OpNotEqual, 0x3_0000_0004)),
		on(specs.ActAllow, "acct", arg(0, specs.OpGreaterEqual, 10), arg(0, specs.OpEqualTo, 3)),
		on(specs.ActKillProcess, "reboot"),
		on(specs.ActTrap, "swapon", arg(1, specs.OpEqualTo, 1)),
		on(specs.ActLog, "swapoff"),
		on(specs.ActTrace, "vhangup"),
	)
	deny := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
		Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86}, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mount", "umount2", "bpf", "unshare", "create_module", "keyctl", "_sysctl", "chown32", "shmget"},
				Action: specs.ActErrno},
			{Names: []string{"ptrace"}, Action: specs.ActKill},
			{Names: []string{"add_key"}, Action: specs.ActLog},
			on(specs.ActErrno, "socket", arg(0, specs.OpEqualTo, unix.AF_ALG)),
			on(specs.ActErrno, "clone", arg(0, specs.OpMaskedEqual, unix.CLONE_NEWUSER, unix.CLONE_NEWUSER)),
		}}
	logs := &specs.LinuxSeccomp{DefaultAction: specs.ActLog, DefaultErrnoRet: &errno,
		Flags:    []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog},
		Syscalls: []specs.LinuxSyscall{on(specs.ActErrno, "mount"), on(specs.ActTrace, "bpf"), on(specs.ActAllow, "getpid")}}
	return map[string]*specs.LinuxSeccomp{
		"default": with("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
			"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"),
		"none": with(), "admin": with("CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_SYS_TIME"),
		"args": args, "deny": deny, "log": logs,
	}
}

func dump(runc, base string, profile *specs.LinuxSeccomp) error {
	text, err := json.MarshalIndent(profile, "", "\t")
	if err != nil {
		return err
	}
	if err := os.WriteFile(base+".json", append(text, '\n'), 0o644); err != nil {
		return err
	}
	bundle, err := os.MkdirTemp("", "seccomp-dump-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bundle)
	if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bundle, "rootfs/never"), nil, 0o755); err != nil {
		return err
	}
	config, err := json.Marshal(&specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"/never"}, Cwd: "/"},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{Seccomp: profile, Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace},
			{Type: specs.PIDNamespace}}},
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o644); err != nil {
		return err
	}
	id, pidFile := filepath.Base(bundle), filepath.Join(bundle, "pid")
	create := exec.Command(runc, "--root", filepath.Join(bundle, "state"), "create", "--bundle", bundle, "--pid-file",
		pidFile, id)
	create.Stderr = os.Stderr
	if err := create.Run(); err != nil {
		return fmt.Errorf("runc create: %w", err)
	}
	defer exec.Command(runc, "--root", filepath.Join(bundle, "state"), "delete", "--force", id).Run()
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	if err != nil {
		return err
	}
	filter, err := filterOf(n)
	if err != nil {
		return err
	}
	return os.WriteFile(base+".bpf", filter, 0o644)
}

// filterOf reads the one filter of a process.
func filterOf(pid int) ([]byte, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PtraceSeize(pid); err != nil {
		return nil, fmt.Errorf("seize: %w", err)
	}
	defer unix.PtraceDetach(pid)
	if err := unix.PtraceInterrupt(pid); err != nil {
		return nil, fmt.Errorf("interrupt: %w", err)
	}
	if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != nil {
		return nil, fmt.Errorf("wait: %w", err)
	}
	buf := make([]unix.SockFilter, unix.BPF_MAXINSNS)
	n, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(pid), 0,
		uintptr(unsafe.Pointer(&buf[0])), 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("get filter: %w", errno)
	}
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SECCOMP_GET_FILTER, uintptr(pid), 1, 0, 0,
		0); errno != unix.ENOENT {
		return nil, errors.New("it has more than one filter")
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&buf[0])), 8*int(n)), nil
}
