package policy

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// The pod annotations with commands for programs that take part in their checkpoint, after the prefix. The value is a
// JSON object of commands, each an array of strings, by the name of the container.
const (
	// AnnotationBeforeCheckpoint is run in a container before it is frozen.
	AnnotationBeforeCheckpoint = "before-checkpoint"
	// AnnotationAfterCheckpoint is run in the container that goes on.
	AnnotationAfterCheckpoint = "after-checkpoint"
	// AnnotationAfterRestore is run in a restored container once its processes run.
	AnnotationAfterRestore = "after-restore"
)

// Commands are those of one annotation, by the name of the container.
type Commands map[string][]string

// parseCommands reads the value of an annotation. The error says what it should be.
func parseCommands(what, value string) (Commands, error) {
	wrong := func(why string) error {
		return fmt.Errorf(`%s: %s: it is a JSON object of commands by container, such as {"app": ["/bin/quiesce", "now"]}`,
			what, why)
	}
	d := json.NewDecoder(strings.NewReader(value))
	var out Commands
	if err := d.Decode(&out); err != nil {
		return nil, wrong(err.Error())
	}
	if d.More() || out == nil {
		return nil, wrong("there is something else in it")
	}
	for _, name := range slices.Sorted(maps.Keys(out)) {
		if len(out[name]) == 0 || out[name][0] == "" {
			return nil, wrong(fmt.Sprintf("the command of container %q is empty", name))
		}
	}
	return out, nil
}
