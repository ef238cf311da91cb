package criu

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	ipc_var "github.com/checkpoint-restore/go-criu/v7/crit/images/ipc-var"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/utsns"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/namespace"
)

// IPCName is the name of the image with the objects of System V IPC of a kind, "shm", "msg" or "sem", of the IPC
// namespace that has this number in the images (criu/image-desc.c).
func IPCName(kind string, namespace uint32) string {
	return fmt.Sprintf("ipcns-%s-%d.img", kind, namespace)
}

// WriteUTS writes the image from which CRIU takes host and domain name, with those
// of the UTS namespace at path.
func WriteUTS(path, file string) error {
	var name unix.Utsname
	if err := namespace.Within(path, unix.CLONE_NEWUTS, func() error { return unix.Uname(&name) }); err != nil {
		return err
	}
	node, domain := unix.ByteSliceToString(name.Nodename[:]), unix.ByteSliceToString(name.Domainname[:])
	return writeImage(file, "UTSNS", &utsns.UtsnsEntry{Nodename: &node, Domainname: &domain})
}

// WriteIPC writes the image from which CRIU takes the limits of an IPC namespace, with
// those of the namespace at path.
func WriteIPC(path, file string) error {
	e := &ipc_var.IpcVarEntry{}
	if err := namespace.Within(path, unix.CLONE_NEWIPC, func() error { return readIPC(e) }); err != nil {
		return err
	}
	return writeImage(file, "IPC_VAR", e)
}

// readIPC reads what CRIU dumps (criu/ipc_ns.c, ipc_sysctl_req). What is optional is left out:
// CRIU leaves it as it is.
func readIPC(e *ipc_var.IpcVarEntry) error {
	var errs []error
	number := func(name string) uint64 {
		v, err := sysctl(name)
		if err == nil && len(v) != 1 {
			err = fmt.Errorf("sysctl %s has %d values, not one", name, len(v))
		}
		if err != nil {
			errs = append(errs, err)
			return 0
		}
		return v[0]
	}
	small := func(name string) *uint32 { v := uint32(number(name)); return &v }
	large := func(name string) *uint64 { v := number(name); return &v }
	sem, err := sysctl("kernel/sem")
	errs = append(errs, err)
	for _, v := range sem {
		e.SemCtls = append(e.SemCtls, uint32(v))
	}
	e.MsgCtlmax, e.MsgCtlmnb, e.MsgCtlmni = small("kernel/msgmax"), small("kernel/msgmnb"), small("kernel/msgmni")
	e.AutoMsgmni = small("kernel/auto_msgmni")
	e.ShmCtlmax, e.ShmCtlall, e.ShmCtlmni = large("kernel/shmmax"), large("kernel/shmall"), small("kernel/shmmni")
	e.ShmRmidForced = small("kernel/shm_rmid_forced")
	e.MqQueuesMax, e.MqMsgMax, e.MqMsgsizeMax = small("fs/mqueue/queues_max"), small("fs/mqueue/msg_max"),
		small("fs/mqueue/msgsize_max")
	return errors.Join(errs...)
}

func sysctl(name string) ([]uint64, error) {
	data, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return nil, err
	}
	var values []uint64
	for _, field := range strings.Fields(string(data)) {
		v, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("sysctl %s: %w", name, err)
		}
		values = append(values, v)
	}
	return values, nil
}
