package guard

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// status is what proc_pid_status(5) says of a thread.
type status struct {
	state      byte
	id         int // in the innermost PID namespace
	uids, gids [4]uint32
	groups     []uint32
	sets       [5]uint64 // inheritable, permitted, effective, bounding, ambient
	noNewPrivs bool
	seccomp    int // mode
	filters    int
}

// fields is how many lines of the file are needed.
const fields = 13

func readStatus(file string) (*status, error) {
	data, err := readSmall(file)
	if err != nil {
		return nil, err
	}
	var (
		s    status
		seen int
	)
	for line := range bytes.Lines(data) {
		name, value, _ := bytes.Cut(line, []byte(":\t"))
		value = bytes.TrimSpace(value)
		seen++
		var err error
		switch string(name) {
		case "State":
			s.state = append(value, ' ')[0]
		case "NSpid":
			all := strings.Fields(string(value))
			s.id, err = strconv.Atoi(all[len(all)-1])
		case "Uid":
			err = four(&s.uids, value)
		case "Gid":
			err = four(&s.gids, value)
		case "Groups":
			for _, n := range numbers(value) {
				s.groups = append(s.groups, uint32(n))
			}
		case "CapInh":
			err = hex(&s.sets[0], value)
		case "CapPrm":
			err = hex(&s.sets[1], value)
		case "CapEff":
			err = hex(&s.sets[2], value)
		case "CapBnd":
			err = hex(&s.sets[3], value)
		case "CapAmb":
			err = hex(&s.sets[4], value)
		case "NoNewPrivs":
			s.noNewPrivs = string(value) == "1"
		case "Seccomp":
			s.seccomp, err = strconv.Atoi(string(value))
		case "Seccomp_filters":
			s.filters, err = strconv.Atoi(string(value))
		default:
			seen--
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", file, name, err)
		}
	}
	if seen != fields {
		return nil, fmt.Errorf("%s has %d of the %d lines that are needed: the kernel is older than Linux 5.9, or has no seccomp filters: %w",
			file, seen, fields, errdefs.ErrNotImplemented)
	}
	return &s, nil
}

func four(ids *[4]uint32, value []byte) error {
	found := numbers(value)
	if len(found) != len(ids) {
		return fmt.Errorf("%q are not four IDs", value)
	}
	for n := range ids {
		ids[n] = uint32(found[n])
	}
	return nil
}

func hex(set *uint64, value []byte) (err error) {
	*set, err = strconv.ParseUint(string(value), 16, 64)
	return err
}

// numbers returns the decimal numbers in a text.
func numbers(text []byte) (out []int) {
	n, in := 0, false
	for _, c := range text {
		if c >= '0' && c <= '9' {
			n, in = 10*n+int(c-'0'), true
			continue
		}
		if in {
			out = append(out, n)
		}
		n, in = 0, false
	}
	if in {
		out = append(out, n)
	}
	return out
}
