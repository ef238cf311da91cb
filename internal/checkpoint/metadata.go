package checkpoint

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// maxText is the length of a short string of the metadata, in bytes. The longest honest
// one is CRI-O's container name: k8s_<container>_<pod>_<namespace>_<uid>_<attempt>.
const maxText = 1024

// readMetadata parses config.dump, spec.dump and descriptors.json.
func (c *Checkpoint) readMetadata() error {
	var (
		conf  config
		spec  specs.Spec
		stdio []string
	)
	if err := readJSON(c.root, metadata.ConfigDumpFile, c.limits, &conf); err != nil {
		return err
	}
	if err := readJSON(c.root, metadata.SpecDumpFile, c.limits, &spec); err != nil {
		return err
	}
	if err := readJSON(c.root, descriptorsFile, c.limits, &stdio); err != nil {
		return err
	}

	if spec.Process == nil || spec.Root == nil || spec.Linux == nil {
		return fmt.Errorf("%s: process, root or linux is missing: not the OCI spec of a Linux container: %w",
			metadata.SpecDumpFile, errdefs.ErrInvalidArgument)
	}
	// runc hands every entry that looks like a pipe to CRIU as the descriptor
	// with the entry's number. From 3 on these are runc's own.
	if len(stdio) > 3 {
		return fmt.Errorf("%s has %d entries, at most 3 are allowed (stdin, stdout, stderr): %w",
			descriptorsFile, len(stdio), errdefs.ErrInvalidArgument)
	}

	binds, err := c.readBinds()
	if err != nil {
		return err
	}
	c.format = formatOf(&spec)
	base, err := c.format.base(&conf, &spec)
	if err != nil {
		return err
	}
	for _, s := range []struct{ field, value string }{
		{"id", conf.ID},
		{"name", conf.Name},
		{"runtime", conf.OCIRuntime},
		{"image name", base.Name},
	} {
		if err := checkText(s.value); err != nil {
			return fmt.Errorf("%s: %s %s: %w", metadata.ConfigDumpFile, s.field, quote(s.value), err)
		}
	}
	for i, s := range stdio {
		if err := checkText(s); err != nil {
			return fmt.Errorf("%s: entry %d, %s: %w", descriptorsFile, i, quote(s), err)
		}
	}
	c.Metadata = Metadata{
		Engine:         c.format.engine(),
		ID:             conf.ID,
		Name:           conf.Name,
		Base:           base,
		Runtime:        conf.OCIRuntime,
		CreatedAt:      conf.CreatedTime,
		CheckpointedAt: conf.CheckpointedAt,
		Spec:           &spec,
		EngineMounts:   c.format.mounts(),
		Binds:          binds,
		Stdio:          stdio,
	}
	return nil
}

// checkText refuses what does not belong into a label, a log or a message.
func checkText(s string) error {
	if len(s) > maxText {
		return fmt.Errorf("has %d bytes, at most %d are allowed: %w", len(s), maxText, errdefs.ErrInvalidArgument)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unicode.IsControl) {
		return fmt.Errorf("has control characters: %w", errdefs.ErrInvalidArgument)
	}
	return nil
}
