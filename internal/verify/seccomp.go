package verify

import (
	"fmt"
	"runtime"
	"slices"
	"strings"

	criu_core "github.com/checkpoint-restore/go-criu/v7/crit/images/criu-core"
	images "github.com/checkpoint-restore/go-criu/v7/crit/images/seccomp"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/seccomp"
)

const (
	seccompImage = "seccomp.img"

	// maxChain is how many instructions the filters of a thread have at most, with four more for each filter
	// (kernel/seccomp.c, MAX_INSNS_PER_PATH).
	maxChain = 1 << 18 / 8

	// knownFlags are those that CRIU writes (criu/seccomp.c: LOG from the kernel, TSYNC of its own) and the one
	// that runc sets. Any other one is refused: CRIU does not notice that a listener was made.
	knownFlags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG | unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW

	// maxSyscalls is how many system calls a finding names.
	maxSyscalls = 5
)

// filter is one of seccomp.img.
type filter struct {
	program *seccomp.Program
	flags   uint32
	prev    *uint32
}

// filters are those of a thread, in the order in which CRIU installs them.
type filters []*filter

func (c filters) all(flag uint32) bool {
	return !slices.ContainsFunc(c, func(f *filter) bool { return f.flags&flag == 0 })
}

func (c filters) any(flag uint32) bool {
	return slices.ContainsFunc(c, func(f *filter) bool { return f.flags&flag != 0 })
}

// seccomp compares the seccomp filters of every thread with the pod's profile. Without a
// profile every filter is less than what the pod was granted.
func (v *verifier) seccomp() error {
	profile, err := seccomp.NewProfile(v.spec.Linux.Seccomp, runtime.GOARCH)
	if err != nil {
		return fmt.Errorf("seccomp profile of the pod: %w: %w", err, errdefs.ErrFailedPrecondition)
	}
	list, err := v.filters()
	if err != nil {
		return err
	}
	s := &seccompCheck{v: v, profile: profile, filters: list}
	if profile != nil {
		s.comparison = seccomp.NewComparison(profile)
	}
	for _, p := range v.processes {
		if err := s.process(threads(p)); err != nil {
			return err
		}
	}
	return nil
}

// filters reads all filters. There may be none.
func (v *verifier) filters() ([]*filter, error) {
	if _, ok := v.images.Size(seccompImage); !ok {
		return nil, nil
	}
	entry, err := criu.One[*images.SeccompEntry](v.images, seccompImage, "SECCOMP")
	if err != nil {
		return nil, err
	}
	var (
		out      []*filter
		programs = map[string]*seccomp.Program{} // CRIU writes the same one for every process
	)
	for i, e := range entry.GetSeccompFilters() {
		p := programs[string(e.GetFilter())]
		if p == nil {
			if p, err = seccomp.Parse(e.GetFilter()); err != nil {
				return nil, invalidSeccomp("filter %d: %w", i, err)
			}
			programs[string(e.GetFilter())] = p
		}
		if more := e.GetFlags() &^ knownFlags; more != 0 {
			return nil, invalidSeccomp("filter %d: flags %#x are none that CRIU writes", i, more)
		}
		// CRIU writes a chain from the newest one on, and follows a circle forever.
		if e.Prev != nil && e.GetPrev() >= uint32(i) {
			return nil, invalidSeccomp("filter %d: the one before it is %d, which does not come before it", i, e.GetPrev())
		}
		out = append(out, &filter{p, e.GetFlags(), e.Prev})
	}
	return out, nil
}

// seccompCheck is the check of all threads.
type seccompCheck struct {
	v          *verifier
	profile    *seccomp.Profile    // nil without one
	comparison *seccomp.Comparison // nil without one
	filters    []*filter
}

// process checks the threads of a process. CRIU installs their filters at
// the same time. Those with TSYNC go to all threads of the process; the kernel does not install them at all if
// another thread has filters of its own, and CRIU does not notice (criu/pie/restorer.c, restore_seccomp_filter,
// takes the number of that thread for success; seen with 4.2.1: no thread had a filter). CRIU writes TSYNC for all filters of the first thread, if the
// others have none, or nowhere (criu/seccomp.c, try_use_tsync).
func (s *seccompCheck) process(all []thread) error {
	sync := false
	for i, t := range all {
		if tc := t.core.GetTc(); tc != nil && (tc.OldSeccompMode != nil || tc.OldSeccompFilter != nil) {
			// CRIU takes it in the place of that of the thread (criu/cr-restore.c, check_core).
			return t.malformed("it has seccomp for the whole process, as only an old CRIU wrote it")
		}
		own, err := s.chain(t)
		if err != nil {
			return err
		}
		forAll := own.any(unix.SECCOMP_FILTER_FLAG_TSYNC)
		switch {
		case forAll && i > 0:
			return t.malformed("it is not the first thread and has seccomp filters for all threads")
		case forAll && !own.all(unix.SECCOMP_FILTER_FLAG_TSYNC):
			return t.malformed("some of its seccomp filters are for all threads, others are not")
		case sync && t.core.GetThreadCore().GetSeccompMode() != criu_core.SeccompMode_disabled:
			return t.malformed("it has seccomp of its own and process %d has filters for all threads, which would not be installed", t.pid)
		}
		sync = sync || forAll
		if i == 0 || !sync { // or it gets those of the first thread
			s.compare(t, own)
		}
	}
	return nil
}

// chain returns the filters that CRIU installs for a thread (criu/seccomp.c, seccomp_prepare_threads).
func (s *seccompCheck) chain(t thread) (filters, error) {
	tc := t.core.GetThreadCore()
	if tc == nil {
		return nil, t.malformed("it says nothing of the thread")
	}
	switch tc.GetSeccompMode() {
	case criu_core.SeccompMode_disabled, criu_core.SeccompMode_strict:
		return nil, nil
	case criu_core.SeccompMode_filter:
	default:
		return nil, t.malformed("seccomp mode %d does not exist", tc.GetSeccompMode())
	}
	if tc.SeccompFilter == nil {
		return nil, t.malformed("it names no seccomp filter")
	}
	var (
		out  filters
		size int
	)
	for next := tc.SeccompFilter; next != nil; next = out[len(out)-1].prev {
		if uint64(*next) >= uint64(len(s.filters)) {
			return nil, t.malformed("seccomp filter %d does not exist", *next)
		}
		f := s.filters[*next]
		out = append(out, f)
		if size += f.program.Len() + 4; size > maxChain {
			return nil, t.malformed("it has more seccomp filters than the kernel takes")
		}
	}
	return out, nil
}

// compare notes what a thread may do beyond the profile.
func (s *seccompCheck) compare(t thread, own filters) {
	if s.profile == nil {
		return
	}
	refuse := func(field, found, allowed string) {
		s.v.refuse(Finding{Check: "seccomp", Object: t.String(), Field: field, Found: found, Allowed: allowed,
			Remedy: "use the seccomp profile with which the checkpoint was taken, or take the checkpoint again with the pod's profile"})
	}
	if mode := t.core.GetThreadCore().GetSeccompMode(); mode != criu_core.SeccompMode_filter {
		refuse("seccomp mode", mode.String(), "filter")
		return
	}
	// The kernel withholds speculation from a thread if one of its filters is without the flag.
	if !s.profile.SpecAllow && own.all(unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW) {
		refuse("seccomp flags", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "none of the profile's filters has it")
	}
	var programs []*seccomp.Program
	for _, f := range own {
		programs = append(programs, f.program)
	}
	grants, err := s.comparison.Grants(programs)
	if err != nil {
		refuse("seccomp filter", err.Error(), "filters that can be compared with the profile")
		return
	}
	if len(grants) > 0 {
		found, allowed := describe(grants)
		refuse("seccomp filter", found, allowed)
	}
}

// describe says what filters let through and what the profile wants.
func describe(grants []seccomp.Grant) (found, allowed string) {
	var names, wanted []string
	for _, g := range grants[:min(len(grants), maxSyscalls)] {
		name := g.Syscall + " " + g.Found
		if g.Some {
			name += " with some arguments"
		}
		names = append(names, name)
	}
	for _, g := range grants {
		if !slices.Contains(wanted, g.Allowed) {
			wanted = append(wanted, g.Allowed)
		}
	}
	if more := len(grants) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("and %d more system calls", more))
	}
	return strings.Join(names, ", "), strings.Join(wanted, " or ")
}

func invalidSeccomp(format string, args ...any) error {
	return fmt.Errorf("CRIU image %s: "+format+": %w", append(append([]any{seccompImage}, args...), errdefs.ErrInvalidArgument)...)
}
