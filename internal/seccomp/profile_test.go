package seccomp

import (
	"maps"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestARM compares a filter for another machine.
func TestARM(t *testing.T) {
	s, filter := readProfile(t, "args"), program(t, readFilter(t, "arm64")...)
	for what, tc := range map[string]struct {
		archs []specs.Arch
		lets  []string
	}{
		"as made":  {[]specs.Arch{specs.ArchAARCH64, specs.ArchARM}, nil},
		"one less": {[]specs.Arch{specs.ArchAARCH64}, []string{"read (arm)", "openat (arm)"}},
	} {
		s.Architectures = tc.archs
		p, err := NewProfile(s, "arm64")
		if err != nil {
			t.Fatal(err)
		}
		g, err := grantsOf(NewComparison(t.Context(), p), filter)
		if err != nil || (len(g) == 0) != (tc.lets == nil) {
			t.Errorf("%s: found %v, error %v", what, g, err)
		}
		for _, name := range tc.lets {
			if _, ok := named(g, name); !ok {
				t.Errorf("%s: %s is missing among %v", what, name, g)
			}
		}
	}
}

// TestNotify has a profile that puts a call before a listener, which does not come back.
func TestNotify(t *testing.T) {
	s, code := readProfile(t, "default"), readFilter(t, "default")
	s.Syscalls = append(s.Syscalls, specs.LinuxSyscall{Names: []string{"mount"}, Action: specs.ActNotify})
	for ret, lets := range map[uint32]int{retUserNotif: 1, retAllow: 1, retErrno: 0} {
		g := grants(t, s, first(code, ret, map[uint32]uint32{wordNumber: 165, wordArch: machines["amd64"]()[0].audit}))
		if m, ok := named(g, "mount"); len(g) != lets || ok != (lets > 0) || ok &&
			!strings.Contains(m.Allowed, "no listener") {
			t.Errorf("%#x: found %v", ret, g)
		}
	}
}

// TestNames looks up calls whose tables have needed a correction.
func TestNames(t *testing.T) {
	for _, tc := range []struct {
		machine string
		abi     int
		name    string
		number  uint32
		is      bool
	}{
		{"amd64", 0, "mount", 165, true}, {"amd64", 0, "file_setattr", 469, true}, {"amd64", 0, "chown32", 0, false},
		{"amd64", 1, "ioctl", x32Bit | 514, true}, {"amd64", 1, "read", x32Bit, true},
		{"amd64", 1, "create_module", 0, false},
		{"amd64", 2, "chown32", 212, true}, {"amd64", 2, "socketcall", 102, true},
		{"arm64", 0, "newfstatat", 79, true}, {"arm64", 0, "fstatat", 0, false}, {"arm64", 0, "futex_time64", 0, false},
		{"arm64", 0, "mount", 40, true}, {"arm64", 0, "open", 0, false}, {"arm64", 1, "set_tls", 983045, true},
	} {
		abi := machines[tc.machine]()[tc.abi]
		if n, ok := abi.numbers[tc.name]; n != tc.number || ok != tc.is {
			t.Errorf("%s on %s: %d, %t", tc.name, abi.name, n, ok)
		}
	}
	for _, machine := range slices.Sorted(maps.Keys(machines)) {
		if _, err := NewProfile(readProfile(t, "default"), machine); err != nil {
			t.Errorf("%s: %v", machine, err)
		}
	}
}

func TestProfileRefuses(t *testing.T) {
	allow := []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow}}
	for what, tc := range map[string]struct {
		profile specs.LinuxSeccomp
		machine string
		say     string
	}{
		"machine": {specs.LinuxSeccomp{DefaultAction: specs.ActErrno}, "s390x", "s390x"},
		"action":  {specs.LinuxSeccomp{DefaultAction: "SCMP_ACT_MAYBE"}, "amd64", "SCMP_ACT_MAYBE"},
		"default": {specs.LinuxSeccomp{Syscalls: allow}, "amd64", `action ""`},
		"architecture": {specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Architectures: []specs.Arch{"VAX"}}, "amd64",
			"VAX"},
		"action of rule": {specs.LinuxSeccomp{DefaultAction: specs.ActErrno,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: "X"}}}, "amd64", `"X"`},
		"operator": {specs.LinuxSeccomp{DefaultAction: specs.ActErrno,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_LIKE"}}}}}, "amd64", "SCMP_CMP_LIKE"},
		"argument": {specs.LinuxSeccomp{DefaultAction: specs.ActErrno,
			Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow,
				Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}}}, "amd64", "argument 6"},
	} {
		t.Run(what, func(t *testing.T) {
			if _, err := NewProfile(&tc.profile, tc.machine); err == nil || !strings.Contains(err.Error(), tc.say) {
				t.Errorf("error %v, want %q", err, tc.say)
			}
		})
	}
	for what, s := range map[string]*specs.LinuxSeccomp{"none": nil, "empty": {},
		"only architectures": {Architectures: []specs.Arch{specs.ArchX86}}} {
		if p, err := NewProfile(s, "s390x"); p != nil || err != nil {
			t.Errorf("%s: profile %v, error %v", what, p, err)
		}
	}
}

// TestSpecAllow reads the flag that runc sets when a profile has no list of flags.
func TestSpecAllow(t *testing.T) {
	for what, tc := range map[string]struct {
		flags []specs.LinuxSeccompFlag
		want  bool
	}{
		"no list": {nil, true}, "empty list": {[]specs.LinuxSeccompFlag{}, false},
		"another": {[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog}, false},
		"it":      {[]specs.LinuxSeccompFlag{specs.LinuxSeccompFlagSpecAllow}, true},
	} {
		p, err := NewProfile(&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Flags: tc.flags}, "amd64")
		if err != nil || p.SpecAllow != tc.want {
			t.Errorf("%s: %v, error %v", what, p, err)
		}
	}
}
