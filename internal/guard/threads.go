package guard

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// nobody is no ID: a process would have CRIU's own.
const nobody = 1<<32 - 1

// lookAtThreads looks at what each thread may have for itself: users, groups, capabilities, seccomp filters, label and cgroup.
func (i *inspection) lookAtThreads(p process, first *status) error {
	tids, err := names(p.path("task"))
	if err != nil {
		return err
	}
	for _, tid := range tids {
		dir, name, s := p.path("task/"+tid), p.name, first
		if tid != strconv.Itoa(p.pid) {
			if s, err = readStatus(dir + "/status"); err != nil {
				return err
			}
			name = fmt.Sprintf("%s, thread %d", p.name, s.id)
		}
		i.lookAtCredentials(name, s)
		if i.labelled {
			if err := i.lookAtLabel(name, dir); err != nil {
				return err
			}
		}
		cgroup, err := readSmall(dir + "/cgroup")
		if err != nil {
			return err
		}
		if string(cgroup) != i.cgroup {
			i.add(Finding{"cgroups", name, "cgroup", differing(string(cgroup), i.cgroup), "the container's"})
		}
	}
	return nil
}

// differing is the first line of a that b does not have.
func differing(a, b string) string {
	for line := range strings.Lines(a) {
		if !strings.Contains(b, line) {
			return strings.TrimSpace(line)
		}
	}
	return "fewer"
}

func (i *inspection) lookAtCredentials(name string, s *status) {
	g := &i.facts.Grant.Process
	for n, field := range []string{"uid", "euid", "suid", "fsuid"} {
		if id := s.uids[n]; id == nobody || !g.AnyUID && !slices.Contains(g.UIDs, id) {
			i.add(Finding{"credentials", name, field, fmt.Sprint(id), fmt.Sprint(g.UIDs)})
		}
	}
	for n, field := range []string{"gid", "egid", "sgid", "fsgid"} {
		if id := s.gids[n]; id == nobody || !g.AnyGID && !slices.Contains(g.GIDs, id) {
			i.add(Finding{"credentials", name, field, fmt.Sprint(id), fmt.Sprint(g.GIDs)})
		}
	}
	for _, id := range s.groups {
		if !g.AnyGID && !slices.Contains(g.GIDs, id) {
			i.add(Finding{"credentials", name, "groups", fmt.Sprint(s.groups), fmt.Sprint(g.GIDs)})
			break
		}
	}
	for n, field := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
		if more := s.sets[n] &^ g.Sets[n]; more != 0 {
			i.add(Finding{"credentials", name, field, fmt.Sprintf("%016x", s.sets[n]), fmt.Sprintf("%016x", g.Sets[n])})
		}
	}
	if g.NoNewPrivs && !s.noNewPrivs {
		i.add(Finding{"credentials", name, "NoNewPrivs", "0", "1"})
	}
	if g.Seccomp && (s.seccomp != unix.SECCOMP_MODE_FILTER || s.filters < 1) {
		i.add(Finding{"seccomp", name, "Seccomp", fmt.Sprintf("mode %d with %d filters", s.seccomp, s.filters), "mode 2 with a filter at least"})
	}
}

func (i *inspection) lookAtLabel(name, dir string) error {
	label, _, err := labelOf(dir)
	if err != nil {
		return err
	}
	if want := i.facts.Grant.Process.Label; label != want {
		i.add(Finding{"credentials", name, "LSM label", none(label), none(want)})
	}
	return nil
}

// labelOf reads the label of the LSM, and whether there is an LSM: a kernel without one that has labels cannot read it.
func labelOf(dir string) (label string, labelled bool, err error) {
	for _, file := range []string{"/attr/apparmor/current", "/attr/current"} {
		b, err := readSmall(dir + file)
		switch {
		case errors.Is(err, os.ErrNotExist):
			continue
		case errors.Is(err, unix.EINVAL):
			return "", false, nil
		case err != nil:
			return "", false, err
		}
		if label, _, _ = strings.Cut(strings.TrimRight(string(b), "\x00\n"), " "); label == "unconfined" {
			label = ""
		}
		return label, true, nil
	}
	return "", false, nil
}

func none(label string) string {
	if label == "" {
		return "none"
	}
	return label
}
