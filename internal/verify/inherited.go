package verify

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/pkg/cap"
	"golang.org/x/sys/unix"
)

// inherited is what a container has from this process, because neither runc nor CRIU sets
// it where the spec or the image says nothing: containerd starts the shim, which starts runc,
// which starts the container's process or CRIU.
type inherited struct {
	bounding, inheritable, permitted capabilities
	// groups are the supplementary ones.
	groups []int
	// hard are the hard limits, by the number of the resource.
	hard [resources]uint64
	// label is the LSM's, "" if there is none.
	label string
}

// inherit is replaced by tests.
var inherit = thisProcess

func thisProcess() (inherited, error) {
	var i inherited
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return i, fmt.Errorf("capabilities of this process: %w", err)
	}
	defer f.Close()
	sets, err := cap.ParseProcPIDStatus(f)
	if err != nil {
		return i, fmt.Errorf("capabilities of this process: %w", err)
	}
	i.bounding, i.inheritable, i.permitted = capabilities(sets[cap.Bounding]), capabilities(sets[cap.Inheritable]), capabilities(sets[cap.Permitted])
	if i.groups, err = os.Getgroups(); err != nil {
		return i, fmt.Errorf("groups of this process: %w", err)
	}
	for n := range i.hard {
		var limit unix.Rlimit
		if err := unix.Getrlimit(n, &limit); err != nil {
			return i, fmt.Errorf("%s of this process: %w", resourceNames[n], err)
		}
		i.hard[n] = limit.Max
	}
	i.label, err = ownLabel("/proc/self/attr/apparmor/current", "/proc/self/attr/current")
	return i, err
}

// ownLabel reads the label of this process from the first of the files that there is. AppArmor says the mode
// after the name. A kernel without an LSM that has labels has the second file and cannot read it.
func ownLabel(files ...string) (string, error) {
	for _, name := range files {
		b, err := os.ReadFile(name)
		switch {
		case err == nil:
			label, _, _ := strings.Cut(strings.TrimRight(string(b), "\x00\n"), " ")
			return confinement(label), nil
		case errors.Is(err, unix.EINVAL):
			return "", nil
		case !errors.Is(err, os.ErrNotExist):
			return "", fmt.Errorf("label of this process: %w", err)
		}
	}
	return "", nil
}

// unconfined is AppArmor's word for no profile.
const unconfined = "unconfined"

// confinement is the label that confines a process: AppArmor's word for none is none.
func confinement(label string) string {
	if label == unconfined {
		return ""
	}
	return label
}
