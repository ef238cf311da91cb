package dump

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	ipc_shm "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-shm"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mm"
	"google.golang.org/protobuf/proto"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// areaSysV marks a mapping of a segment of System V IPC (criu/include/image.h, VMA_AREA_SYSVIPC).
const areaSysV = 1 << 10

// dropSegments takes out of the images in a directory the segments that no process has attached, with their content:
// they may be another container's.
func dropSegments(ctx context.Context, dir string) error {
	images, err := criu.OpenImages(dir)
	if err != nil {
		return err
	}
	defer images.Close()
	images.Until(ctx)
	processes, err := images.Processes()
	if err != nil {
		return err
	}
	ids, err := images.IDs(processes[0].GetPid())
	if err != nil {
		return err
	}
	name := criu.IPCName("shm", ids.GetIpcNsId())
	if _, ok := images.Size(name); !ok {
		return nil
	}
	all, err := criu.Entries[*ipc_shm.IpcShmEntry](images, name, "IPCNS_SHM")
	if err != nil {
		return err
	}
	attached, err := attachedSegments(images, processes)
	if err != nil {
		return err
	}
	var kept []proto.Message
	for _, e := range all {
		if attached[uint64(e.GetDesc().GetId())] {
			kept = append(kept, e)
			continue
		}
		if err := dropContent(images, dir, e.GetDesc().GetId()); err != nil {
			return err
		}
	}
	if len(kept) == len(all) {
		return nil
	}
	data, err := criu.Encode("IPCNS_SHM", kept...)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), data, 0o600)
}

// attachedSegments are the IDs of the segments that processes have attached.
func attachedSegments(images *criu.Images, processes []*criu.Process) (map[uint64]bool, error) {
	out := map[uint64]bool{}
	for _, p := range processes {
		if p.Dead() {
			continue
		}
		m, err := criu.One[*mm.MmEntry](images, fmt.Sprintf("mm-%d.img", p.GetPid()), "MM")
		if err != nil {
			return nil, err
		}
		for _, area := range m.GetVmas() {
			if area.GetStatus()&areaSysV != 0 {
				out[area.GetShmid()] = true
			}
		}
	}
	return out, nil
}

// dropContent removes the pages of a segment (criu/shmem.c, dump_one_sysv_shmem).
func dropContent(images *criu.Images, dir string, id uint32) error {
	pagemap := fmt.Sprintf("pagemap-shmem-%d.img", id)
	if _, ok := images.Size(pagemap); !ok {
		return nil
	}
	pages, err := images.Pagemap(pagemap, "PAGEMAP", func(uint64, uint64) error { return nil })
	if err != nil {
		return err
	}
	return errors.Join(os.Remove(filepath.Join(dir, pagemap)),
		os.Remove(filepath.Join(dir, fmt.Sprintf("pages-%d.img", pages))))
}
