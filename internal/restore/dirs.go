package restore

import (
	"fmt"
	"os"
	"path/filepath"

	metadata "github.com/checkpoint-restore/checkpointctl/lib"

	"github.com/cri-restore/cri-restore/internal/mounts"
)

// Dirs are the plugin's directories: one folder for each restore, named by its ID,
// below each of the two.
type Dirs struct {
	// Root survives a reboot. It is containerd's root directory of the plugin.
	Root string
	// State may be lost at a reboot, as mounts are.
	State string
}

// View is where the checkpoint image of a restore is mounted.
func (d Dirs) View(id string) string { return filepath.Join(d.State, id, "view") }

// Rootfs is where the new container's root file system is mounted while the
// changes of the old one are applied to it.
func (d Dirs) Rootfs(id string) string { return filepath.Join(d.State, id, "rootfs") }

// Archive is where a checkpoint archive is unpacked.
func (d Dirs) Archive(id string) string { return filepath.Join(d.Root, id, "archive") }

// Work is CRIU's work directory, with its log.
func (d Dirs) Work(id string) string { return filepath.Join(d.Root, id, "work") }

// Config is the CRIU configuration file of the restored container.
func (d Dirs) Config(id string) string { return filepath.Join(d.Root, id, "criu.conf") }

// Cgroups is where CRIU finds the hierarchy of cgroup v2, for this restore and for later checkpoints of the container.
func (d Dirs) Cgroups(id string) string { return filepath.Join(d.Root, id, "cgroups") }

// Guard is where restore-guard finds what it has to know of a restore, and says what it has seen.
func (d Dirs) Guard(id string) string { return filepath.Join(d.Root, id, "guard") }

// Replaced is where the images are that CRIU reads in the place of the checkpoint's.
func (d Dirs) Replaced(id string) string { return filepath.Join(d.Root, id, "images") }

// Engine is where the files are that stand in for those of the checkpoint's engine.
func (d Dirs) Engine(id string) string { return filepath.Join(d.Root, id, "engine") }

// Checkpoint is the directory with the checkpoint of a record.
func (d Dirs) Checkpoint(r *Record) string {
	if r.SnapshotKey != "" {
		return d.View(r.ID)
	}
	return d.Archive(r.ID)
}

// Images is the directory with the CRIU images of a record's checkpoint.
func (d Dirs) Images(r *Record) string {
	return filepath.Join(d.Checkpoint(r), metadata.CheckpointDirectory)
}

// Make makes the folders of a restore.
func (d Dirs) Make(id string) error {
	for _, dir := range []string{d.View(id), d.Rootfs(id), d.Work(id)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("directory of restore %s: %w", id, err)
		}
	}
	return nil
}

// Remove removes the folders of a restore, after everything that is mounted
// below them was unmounted.
func (d Dirs) Remove(id string) error {
	for _, dir := range []string{filepath.Join(d.State, id), filepath.Join(d.Root, id)} {
		if err := mounts.Remove(dir); err != nil {
			return fmt.Errorf("directory of restore %s: %w", id, err)
		}
	}
	return nil
}
