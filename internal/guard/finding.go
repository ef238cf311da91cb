package guard

import (
	"fmt"
	"strings"
	"sync"
)

// Finding is something of a restored container that its pod was not granted. Values are quoted and cut where they are shown: some are
// a stranger's.
type Finding struct {
	// Check is the kind of the comparison, a label of the metric: "credentials", "seccomp", "limits", "namespaces",
	// "cgroups", "mounts", "files", or "access".
	Check string `json:"check"`
	// Object is what was looked at, such as "process 7, thread 9", by the IDs in the container, or "mount /etc/hosts".
	Object string `json:"object"`
	// Field is the property of the object, by its name in proc(5).
	Field string `json:"field"`
	// Found and Allowed are its value, and what the spec has for it.
	Found   string `json:"found"`
	Allowed string `json:"allowed"`
}

// accessCheck is the check of what the pod's user may do with a file that a process has.
const accessCheck = "access"

const (
	maxKept = 8   // findings in a verdict
	maxText = 200 // bytes of a value
)

func (f Finding) String() string {
	return fmt.Sprintf("%s: %s: found %s, allowed %s", shown(f.Object), f.Field, shown(f.Found), shown(f.Allowed))
}

// shown cuts a text and quotes what a terminal or a log would act on.
func shown(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText-3], "") + "..."
	}
	if q := fmt.Sprintf("%q", s); q[1:len(q)-1] != s {
		return q
	}
	return s
}

// findings collects them from several goroutines.
type findings struct {
	mu sync.Mutex
	v  *Verdict
}

func (f *findings) add(one Finding) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.v.ByCheck == nil {
		f.v.ByCheck = map[string]int{}
	}
	f.v.ByCheck[one.Check]++
	if f.v.Total++; f.v.Total <= maxKept {
		f.v.Findings = append(f.v.Findings, one)
	}
}
