package verify

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/sysv"
)

// Finding is one thing that a checkpoint would bring and the pod was not granted. Found may be
// a stranger's text: it is quoted and cut where it is shown.
type Finding struct {
	// Check is the kind of the comparison, a label of the metric: "credentials", "seccomp",
	// "limits", "mounts", "files", "memory", "namespaces" or "images".
	Check string
	// Object is what was compared, such as "process 7, thread 9" or "mount /etc/hosts".
	Object string
	// Field is the property of the object, by its name in proc(5) or in the OCI spec.
	Field string
	// Found and Allowed are its value in the checkpoint and what the spec has for it.
	Found, Allowed string
	// Remedy says what to change in the pod or in the checkpoint, if there is such a thing.
	Remedy string
	// Always says that a node that only audits refuses it as well: it would reach beyond what the images say of it.
	Always bool
}

const (
	maxShown = 8   // findings in an error
	maxText  = 200 // bytes of a value
)

func (f Finding) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s: found %s, allowed %s", printable(f.Object), f.Field, printable(f.Found), printable(f.Allowed))
	if f.Remedy != "" {
		fmt.Fprintf(&b, " (%s)", f.Remedy)
	}
	return b.String()
}

// printable cuts a text and quotes what a terminal or a log would act on.
func printable(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText-3], "") + "..."
	}
	q := fmt.Sprintf("%q", s)
	if q[1:len(q)-1] == s {
		return s
	}
	return q
}

// Report is the outcome of a phase.
type Report struct {
	// Findings are the first ones that would be too much; Total counts all.
	Findings []Finding
	Total    int
	// Unreadable says why images could not be compared, or not all of them: they are not such as CRIU writes them. It is
	// of class errdefs.ErrInvalidArgument, or nil.
	Unreadable error
	// Unpermitted says that a file was found which the pod's user may not open now. An audit lets it through; what is so
	// only later was exchanged meanwhile, and is the doing of somebody else.
	Unpermitted bool
	// always is that one of the findings is for audits, too.
	always bool
	// ByCheck counts the findings by their kind, what is unreadable as "images".
	ByCheck map[string]int
	// Replaced are the images, by name, which CRIU is to read in the place of the checkpoint's.
	Replaced map[string][]byte
	// TCPClosed says that the checkpoint was taken by a CRIU that was to close connections: it has nothing of them.
	TCPClosed bool
	// Reserved is the address space that processes have and may not write to.
	Reserved Reserved
	// IPC are the objects of System V IPC that CRIU makes.
	IPC []sysv.Object
	// Masked are files that stay masked although the pod does not ask for it. The spec has to list them: runc gives
	// CRIU a source for masks, and a name for them in a later checkpoint, by its own list only (criu_linux.go).
	Masked []string
	// Directories are the modes, without the type, that the directories of the root file system had which processes
	// have open, are in, or have as their root. Engines do not record all of them: CRI-O and
	// Podman leave out changed directories, and give "/" another mode than containerd.
	Directories map[string]uint32
}

func (r *Report) add(f Finding) {
	r.count(f.Check)
	r.always = r.always || f.Always
	if r.Total++; r.Total <= maxShown {
		r.Findings = append(r.Findings, f)
	}
}

// unless notes an error that is about the form of images, and returns any other one.
func (r *Report) unless(err error) error {
	if err == nil || !errdefs.IsInvalidArgument(err) || errdefs.IsFailedPrecondition(err) {
		return err
	}
	r.count("images")
	if r.Unreadable == nil {
		r.Unreadable = err
	}
	return nil
}

func (r *Report) count(check string) {
	if r.ByCheck == nil {
		r.ByCheck = map[string]int{}
	}
	r.ByCheck[check]++
}

func (r *Report) replace(name string, data []byte) {
	if r.Replaced == nil {
		r.Replaced = map[string][]byte{}
	}
	r.Replaced[name] = data
}

// Judge says what becomes of the container: why it is refused, or on a node that only audits what it is let through with. Both
// are nil if nothing was found.
func (r *Report) Judge(audit bool) (refused, let error) {
	err := r.Err()
	if audit && !r.always {
		return nil, err
	}
	return err, nil
}

// Err returns nil if nothing was found, or else an error in one line, of class
// errdefs.ErrPermissionDenied, that says what, where and how much of it. What could not be read goes before.
func (r *Report) Err() error {
	if r.Unreadable != nil && !r.always {
		return r.Unreadable
	}
	if r.Total == 0 {
		return nil
	}
	texts := make([]string, 0, len(r.Findings)+1)
	for _, f := range r.Findings {
		texts = append(texts, f.String())
	}
	if more := r.Total - len(r.Findings); more > 0 {
		texts = append(texts, fmt.Sprintf("and %d more", more))
	}
	return fmt.Errorf("the checkpoint would give the container more than its pod was granted: %s: %w", strings.Join(texts, "; "), errdefs.ErrPermissionDenied)
}
