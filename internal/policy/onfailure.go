package policy

import "fmt"

// annotationOnFailure is the pod annotation for one pod's [OnFailure], after the prefix.
const annotationOnFailure = "on-failure"

// OnFailure says what becomes of a container whose checkpoint cannot be restored. Nodes have no value of their own:
// only the pod's owner knows whether a process that begins anew is better than none.
type OnFailure string

const (
	// Fail makes the creation or the start of the container fail. The zero value does so too.
	Fail OnFailure = "fail"
	// StartFresh starts the container from the checkpoint's base image.
	StartFresh OnFailure = "start-fresh"
)

func checkOnFailure(what string, f OnFailure) error {
	if f == Fail || f == StartFresh {
		return nil
	}
	return fmt.Errorf("%s: %q is none of %q, %q", what, f, Fail, StartFresh)
}
