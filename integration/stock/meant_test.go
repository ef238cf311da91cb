package stock

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// meant is a difference from stock that is meant. It is in every one of its modes, or the table is wrong.
type meant struct {
	name string
	// modes are those in which it is.
	modes []string
	// op is the call, ours and stock what they answer.
	op, ours, stock *regexp.Regexp
	// document says so, in these words.
	document, words string
}

var all = []string{"default", "enable = false", "no CRIU", "disabled_plugins"}

// meanings is every difference that is meant.
var meanings = []meant{
	{"version", all, on(`^Version`), on(`\+cri-restore`), on(`OK`), "compatibility.md",
		"says in its version that it is a build with the plugin"},
	{"archive as image", []string{"default"}, on(`^CreateContainer`),
		on(`PermissionDenied: .*archives are not allowed as image names`), on(`NotFound: failed to resolve image`),
		"troubleshooting.md", "archives are not allowed as image names on this node"},
	{"archive as image, which cannot be restored", []string{"no CRIU"}, on(`^CreateContainer`),
		on(`FailedPrecondition: .*which this node cannot restore`), on(`NotFound: failed to resolve image`),
		"troubleshooting.md", "is a checkpoint, which this node cannot restore"},
	{"relative location", []string{"default"}, on(`^CheckpointContainer`),
		on(`InvalidArgument: .*neither the absolute path of an archive nor oci-image:NAME`), on(``),
		"troubleshooting.md", "neither the absolute path of an archive nor oci-image:NAME"},
	{"long name", []string{"default"}, on(`^CheckpointContainer name`),
		on(`InvalidArgument: .*its file name has 256 bytes`), on(`file name too long`),
		"troubleshooting.md", "more than the 255 that a name may have"},
	{"image as location", []string{"default"}, on(`^CheckpointContainer image`),
		on(`PermissionDenied: .*allow_checkpoint_images`), on(``),
		"troubleshooting.md", "checkpoints are not allowed to become images on this node"},
	{"absent directory", []string{"default"}, on(`^CheckpointContainer`),
		on(`NotFound: .*checkpoint directory .* does not exist`),
		on(`no such file or directory|criu failed: type DUMP`), // stock looks at the directory when it has the dump
		"troubleshooting.md", "checkpoint directory ... does not exist"},
	{"failed dump", []string{"default"}, on(`^CheckpointContainer`), on(`FailedPrecondition: .*criu: `),
		on(`Unknown: .*criu failed: type DUMP`),
		"troubleshooting.md", "The message has CRIU's own words after `criu:`"},
	{"existing archive", []string{"default"}, on(`^CheckpointContainer existing`), on(`AlreadyExists: .*exists`), on(`OK`),
		"troubleshooting.md", "nothing is ever replaced"},
	{"pod annotation", []string{"default"}, on(`^CheckpointContainer`),
		on(`(InvalidArgument|PermissionDenied): .*pod annotation "org.criu.restore/`), on(`OK`),
		"configuration.md", "refused its restore and its checkpoint"},
	{"log that is a link", []string{"default"}, on(`^CheckpointContainer log link`),
		on(`FailedPrecondition: .*symbolic link, which is not followed`), on(``),
		"troubleshooting.md", "is a symbolic link, which is not followed"},
	{"log that is no file", []string{"default"}, on(`^CheckpointContainer log fifo`),
		on(`FailedPrecondition: .*no regular file`), on(``),
		"troubleshooting.md", "no regular file"},
}

func on(pattern string) *regexp.Regexp { return regexp.MustCompile(`(?s)` + pattern) }

// meantBy returns the entry of the table that a difference is, nil for one that is not meant.
func meantBy(mode, op, ours, stock string) *meant {
	for i, m := range meanings {
		if slices.Contains(m.modes, mode) && m.op.MatchString(op) && m.ours.MatchString(ours) && m.stock.MatchString(stock) {
			return &meanings[i]
		}
	}
	return nil
}

// requireMeant fails the test for every entry of the table that is not seen any longer: the cases have one for each.
func (w *world) requireMeant() {
	for _, m := range meanings {
		if slices.Contains(m.modes, w.mode) && w.seen[m.name] == 0 {
			w.t.Errorf("the difference %q is not there any longer: take it out of the table, and what %s says of it", m.name,
				m.document)
		}
	}
}

// TestMeant holds the table against the documents, without any containerd.
func TestMeant(t *testing.T) {
	for _, m := range meanings {
		page, err := os.ReadFile(filepath.Join("..", "..", "docs", m.document))
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(strings.Fields(string(page)), " "); !strings.Contains(text, m.words) {
			t.Errorf("%s: %s does not say %q", m.name, m.document, m.words)
		}
	}
}
