package verify

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
	"github.com/cri-restore/cri-restore/internal/verify/place"
)

// missing deals with what the spec mounts and the checkpoint has not.
func (v *verifier) missing(tree *mountTree, wanted map[string]*wantedMount) error {
	var errs []error
	for _, p := range slices.Sorted(maps.Keys(wanted)) {
		w := wanted[p]
		switch {
		case w.found, tree.byPath[p] != nil && tree.byPath[p].kind <= unexplained: // refused with better words
		case w.kind != volume:
			v.refuse(Finding{Check: "mounts", Object: "mount " + p, Field: "mount point", Found: "none in the checkpoint", Allowed: w.String(),
				Remedy: "mount only what was mounted when the checkpoint was taken"})
		default:
			if err := v.addMount(tree, p, w); err != nil {
				errs = append(errs, fmt.Errorf("the pod mounts a volume at %.200q, which the checkpoint does not have and CRIU cannot add: %w", w.path, err))
			}
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("the checkpoint does not fit this pod: %s: %w", strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "; "), errdefs.ErrFailedPrecondition)
}

// addMount puts a volume into the tree. runc makes mount points outside of tmpfs (criu_linux.go,
// prepareCriuRestoreMounts).
func (v *verifier) addMount(tree *mountTree, at string, w *wantedMount) error {
	if tree.byPath[at] != nil {
		return errors.New("there is another mount")
	}
	source, err := place.OpenDir(w.source)
	if err != nil {
		return fmt.Errorf("its source: %w", err)
	}
	defer source.Close()
	up := tree.above(at)
	if up.kind != rootMount && up.kind != volume && !up.isTmpfs() {
		return fmt.Errorf("it would be in %s at %s", fstypeName(mnt.Fstype(up.GetFstype())), up.GetMountpoint())
	}
	if up.kind == volume {
		if err := v.noLinkBelow(up, at); err != nil {
			return err
		}
	}
	if name, err := v.openBelow(at); err != nil {
		return err
	} else if name != "" {
		return fmt.Errorf("a process has %.200q open, which it would hide", name)
	}
	tree.add(&mount{kind: volume, want: w, added: true, dir: source.IsDir(), MntEntry: &mnt.MntEntry{
		Mountpoint: &at, Fstype: proto.Uint32(uint32(mnt.Fstype_UNSUPPORTED)), Root: proto.String("/"), RootDev: proto.Uint32(0),
		Flags: proto.Uint32(unix.MS_RELATIME), Source: proto.String(""), Options: proto.String(""),
	}})
	tree.settle()
	return nil
}

// noLinkBelow refuses a mount point in a volume to which a link in the volume leads: CRIU would follow it.
func (v *verifier) noLinkBelow(up *mount, at string) error {
	dir, err := place.OpenDir(up.want.source)
	if err != nil {
		return fmt.Errorf("the volume at %s: %w", up.GetMountpoint(), err)
	}
	table, err := place.New([]*place.Mount{{At: "/"}, {ID: 1, At: up.GetMountpoint(), Kind: place.Volume, Base: dir}}, v.step)
	if err != nil {
		return err
	}
	defer table.Close()
	if link := table.Link(at); link != "" {
		return fmt.Errorf("the path leads through the link %s of another volume", link)
	}
	return nil
}

// openBelow returns the path of an open file at a path or below.
func (v *verifier) openBelow(at string) (string, error) {
	files, err := criu.Entries[*fdinfo.FileEntry](v.images, filesImage, "FILES")
	if err != nil {
		return "", err
	}
	if err := v.step(len(files)); err != nil {
		return "", err
	}
	for _, f := range files {
		names := []string{f.GetReg().GetName(), path.Clean(socketPath(&openFile{FileEntry: f}))}
		for _, w := range f.GetIfy().GetWd() {
			names = append(names, w.GetFHandle().GetPath())
		}
		for _, name := range names {
			if name != "" && place.Below(at, name) {
				return name, nil
			}
		}
	}
	return "", nil
}
