package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// AnnotationPrefix is that of all annotations of this plugin.
const AnnotationPrefix = "org.criu.restore/"

// annotationTCP is the pod annotation for one pod's [TCP], after the prefix.
const annotationTCP = "tcp-connections"

// AnnotationLazy is the pod annotation for one pod's [Lazy], after the prefix.
const AnnotationLazy = "lazy-pages"

// annotationCompression is the pod annotation for one pod's [Compression], after the prefix.
const annotationCompression = "checkpoint-compression"

// known are the pod annotations that there are, after the prefix.
var known = []string{
	annotationTCP, AnnotationLazy, annotationCompression, annotationOnFailure,
	AnnotationBeforeCheckpoint, AnnotationAfterCheckpoint, AnnotationAfterRestore,
}

// TCP is what becomes of TCP connections that were established when the checkpoint was taken.
type TCP string

const (
	// RefuseTCP refuses a checkpoint with such connections. The zero value does so too.
	RefuseTCP TCP = "refuse"
	// CloseTCP restores the sockets as closed: the process sees a connection that the other end has left.
	CloseTCP TCP = "close"
	// LocalTCP brings back those of which both ends are in the checkpoint, and closes all others.
	LocalTCP TCP = "local"
	// RestoreTCP lets CRIU restore them, addresses and sequence numbers included.
	RestoreTCP TCP = "restore"
)

// Pod are a pod's requests to the plugin, with the node's values where it makes none.
type Pod struct {
	TCP         TCP
	Lazy        Lazy
	Compression Compression
	OnFailure   OnFailure
	// Before, After and Restored are the commands of [AnnotationBeforeCheckpoint], [AnnotationAfterCheckpoint] and
	// [AnnotationAfterRestore].
	Before, After, Restored Commands
}

// Pod reads a pod's annotations. An annotation that the node does not hear is refused and not
// ignored: the pod wants something else than it would get. The error is of class errdefs.ErrPermissionDenied, or
// errdefs.ErrInvalidArgument for a value or a name that there is not.
func (p *Policy) Pod(annotations map[string]string) (Pod, error) {
	out := Pod{TCP: p.tcp, Lazy: p.lazy, Compression: p.compression}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		name, ours := strings.CutPrefix(key, AnnotationPrefix)
		switch {
		case !ours:
			continue
		case !slices.Contains(known, name):
			return Pod{}, fmt.Errorf("pod annotation %q: the restore plugin knows no such annotation, it knows %s: remove "+
				"it: %w",
				key, AnnotationPrefix+strings.Join(known, ", "+AnnotationPrefix), errdefs.ErrInvalidArgument)
		case !slices.Contains(p.heard, name):
			return Pod{}, fmt.Errorf("pod annotation %q: it is not heard on this node: remove it, or add %q to "+
				"pod_annotations: %w",
				key, name, errdefs.ErrPermissionDenied)
		}
		var err error
		switch what := fmt.Sprintf("pod annotation %q", key); name {
		case annotationTCP:
			out.TCP = TCP(annotations[key])
			err = checkTCP(what, out.TCP)
		case AnnotationLazy:
			out.Lazy = Lazy(annotations[key])
			err = checkLazy(what, out.Lazy)
		case annotationCompression:
			out.Compression = Compression(annotations[key])
			err = checkCompression(what, out.Compression)
		case annotationOnFailure:
			out.OnFailure = OnFailure(annotations[key])
			err = checkOnFailure(what, out.OnFailure)
		case AnnotationBeforeCheckpoint:
			out.Before, err = parseCommands(what, annotations[key])
		case AnnotationAfterCheckpoint:
			out.After, err = parseCommands(what, annotations[key])
		case AnnotationAfterRestore:
			out.Restored, err = parseCommands(what, annotations[key])
		}
		if err != nil {
			return Pod{}, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
	}
	return out, nil
}

func checkTCP(what string, t TCP) error {
	if t == "" || slices.Contains([]TCP{RefuseTCP, CloseTCP, LocalTCP, RestoreTCP}, t) {
		return nil
	}
	return fmt.Errorf("%s: %q is none of %q, %q, %q, %q", what, t, RefuseTCP, CloseTCP, LocalTCP, RestoreTCP)
}

func checkHeard(names []string) error {
	var errs []error
	for _, name := range names {
		if !slices.Contains(known, name) {
			errs = append(errs, fmt.Errorf("pod_annotations: %q is no annotation of this plugin: there is %q", name, known))
		}
	}
	return errors.Join(errs...)
}
