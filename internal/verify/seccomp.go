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

	// maxFilters is how many there may be. CRIU writes some for every process.
	maxFilters = 1 << 16
)

// filter is one of seccomp.img. It stands for itself and those before it, which are older: they are known by the newest one,
// so that a chain costs no more than its filters, in however many threads it is.
type filter struct {
	program *seccomp.Program
	before  *filter
	flags   uint32
	some    uint32 // the flags that one of them has
	all     uint32 // the flags that all of them have
	size    int    // of all, as the kernel counts it
	chain   *seccomp.Chain
	verdict *verdict
}

// verdict is what filters let through, and what the profile wants, in words; nothing, or why it is not known.
type verdict struct {
	found, allowed string
	err            error
}

// has says whether one of the filters has the flag. There may be none.
func (f *filter) has(flag uint32) bool { return f != nil && f.some&flag != 0 }

// allHave says whether all filters have the flag. There may be none.
func (f *filter) allHave(flag uint32) bool { return f == nil || f.all&flag != 0 }

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
		s.comparison = seccomp.NewComparison(v.ctx, profile)
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
	if n := len(entry.GetSeccompFilters()); n > maxFilters {
		return nil, invalidSeccomp("it has %d filters, more than %d", n, maxFilters)
	}
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
		f := &filter{program: p, flags: e.GetFlags(), some: e.GetFlags(), all: e.GetFlags(), size: p.Len() + 4}
		if e.Prev != nil {
			f.before = out[e.GetPrev()]
			f.some |= f.before.some
			f.all &= f.before.all
			f.size = min(f.size+f.before.size, maxChain+1)
		}
		out = append(out, f)
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
		forAll := own.has(unix.SECCOMP_FILTER_FLAG_TSYNC)
		switch {
		case forAll && i > 0:
			return t.malformed("it is not the first thread and has seccomp filters for all threads")
		case forAll && !own.allHave(unix.SECCOMP_FILTER_FLAG_TSYNC):
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

// chain returns the newest of the filters that CRIU installs for a thread (criu/seccomp.c, seccomp_prepare_threads).
func (s *seccompCheck) chain(t thread) (*filter, error) {
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
	if uint64(tc.GetSeccompFilter()) >= uint64(len(s.filters)) {
		return nil, t.malformed("seccomp filter %d does not exist", tc.GetSeccompFilter())
	}
	f := s.filters[tc.GetSeccompFilter()]
	if f.size > maxChain {
		return nil, t.malformed("it has more seccomp filters than the kernel takes")
	}
	return f, nil
}

// judge compares filters with the profile, once.
func (s *seccompCheck) judge(f *filter) *verdict {
	if f.verdict != nil {
		return f.verdict
	}
	var unknown []*filter
	for of := f; of != nil && of.chain == nil; of = of.before {
		unknown = append(unknown, of)
	}
	for _, of := range slices.Backward(unknown) {
		var older *seccomp.Chain
		if of.before != nil {
			older = of.before.chain
		}
		of.chain = s.comparison.Extend(older, of.program)
	}
	f.verdict = &verdict{}
	grants, err := s.comparison.Grants(f.chain)
	if err != nil {
		f.verdict.err = err
	} else if len(grants) > 0 {
		f.verdict.found, f.verdict.allowed = describe(grants)
	}
	return f.verdict
}

// compare notes what a thread may do beyond the profile.
func (s *seccompCheck) compare(t thread, own *filter) {
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
	if !s.profile.SpecAllow && own.allHave(unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW) {
		refuse("seccomp flags", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "none of the profile's filters has it")
	}
	switch is := s.judge(own); {
	case is.err != nil:
		refuse("seccomp filter", is.err.Error(), "filters that can be compared with the profile")
	case is.found != "":
		refuse("seccomp filter", is.found, is.allowed)
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
