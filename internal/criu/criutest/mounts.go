package criutest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// Mount is a mount of a file system of its own, below the mount with the ID parent.
func Mount(id, parent uint32, mountpoint string, kind mnt.Fstype, options string, flags uint32) *mnt.MntEntry {
	source := map[mnt.Fstype]string{
		mnt.Fstype_PROC: "proc", mnt.Fstype_SYSFS: "sysfs", mnt.Fstype_TMPFS: "tmpfs", mnt.Fstype_DEVPTS: "devpts",
		mnt.Fstype_MQUEUE: "mqueue", mnt.Fstype_OVERLAYFS: "overlay",
	}[kind]
	return &mnt.MntEntry{
		MntId: &id, ParentMntId: &parent, Mountpoint: &mountpoint, Fstype: proto.Uint32(uint32(kind)),
		RootDev: proto.Uint32(id), Root: proto.String("/"),
		Source: &source, Options: &options, Flags: &flags, SbFlags: proto.Uint32(0), SharedId: proto.Uint32(0),
		MasterId: proto.Uint32(0),
	}
}

// Bind is a mount that runc has told CRIU of, by key.
func Bind(id, parent uint32, mountpoint, key string, flags uint32) *mnt.MntEntry {
	m := Mount(id, parent, mountpoint, mnt.Fstype_UNSUPPORTED, "discard", flags)
	m.ExtKey, m.RootDev, m.Root, m.Source = &key, proto.Uint32(254<<20), proto.String("/var/lib/kubelet"+mountpoint),
		proto.String("/dev/vda")
	return m
}

// Mounts are those of an ordinary container of containerd with cgroup v1, as CRIU writes them. The volumes
// /data and /secret, of which the latter is read-only, are on one disk. The IDs are those of
// the devices too; 3 is /dev and 7 the cgroups.
func Mounts() []*mnt.MntEntry {
	const open, closed = unix.MS_NOSUID | unix.MS_RELATIME,
		unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_RELATIME
	shm := Bind(15, 3, "/dev/shm", "/dev/shm", unix.MS_RELATIME)
	shm.Fstype, shm.RootDev, shm.Root, shm.Source, shm.Options = proto.Uint32(uint32(mnt.Fstype_TMPFS)), proto.Uint32(39),
		proto.String("/"), proto.String("shm"), proto.String("size=65536k")
	memory := Bind(8, 7, "/sys/fs/cgroup/memory", "/sys/fs/cgroup/memory", closed|unix.MS_RDONLY)
	memory.Fstype, memory.RootDev, memory.Root = proto.Uint32(uint32(mnt.Fstype_CGROUP)), proto.Uint32(32),
		proto.String("/kubepods/pod1")
	return []*mnt.MntEntry{
		shm,
		Bind(14, 1, "/secret", "/secret", unix.MS_RELATIME|unix.MS_RDONLY),
		Bind(13, 1, "/data", "/data", unix.MS_RELATIME),
		Bind(12, 1, "/etc/hosts", "/etc/hosts", unix.MS_RELATIME),
		memory,
		Mount(7, 6, "/sys/fs/cgroup", mnt.Fstype_TMPFS, "mode=755", closed),
		Mount(6, 1, "/sys", mnt.Fstype_SYSFS, "", closed|unix.MS_RDONLY),
		Mount(5, 3, "/dev/mqueue", mnt.Fstype_MQUEUE, "", closed),
		Mount(4, 3, "/dev/pts", mnt.Fstype_DEVPTS, "gid=5,mode=620,ptmxmode=666,newinstance", open|unix.MS_NOEXEC),
		Mount(3, 1, "/dev", mnt.Fstype_TMPFS, "size=65536k,mode=755", unix.MS_NOSUID|unix.MS_STRICTATIME),
		Mount(2, 1, "/proc", mnt.Fstype_PROC, "", closed),
		Mount(1, 99, "/", mnt.Fstype_OVERLAYFS, "lowerdir=/var/lib/containerd/1/fs,upperdir=/var/lib/containerd/2/fs",
			unix.MS_RELATIME),
	}
}

// MountImages returns the images of mounts and of the files in its two tmpfs.
func MountImages(mounts []*mnt.MntEntry, dev, cgroup []Entry) map[string]string {
	entries := make([]proto.Message, len(mounts))
	for i := range mounts {
		entries[i] = mounts[i]
	}
	return map[string]string{
		"mountpoints-2.img":      Image("MNTS", entries...),
		"tmpfs-dev-3.tar.gz.img": Archive(dev...),
		"tmpfs-dev-7.tar.gz.img": Archive(cgroup...),
	}
}

// Entry is a file of a tmpfs.
type Entry struct {
	tar.Header
	Content string
}

// Dir is a directory.
func Dir(name string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}}
}

// File is a regular file.
func File(name, content string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: int64(len(content))},
		Content: content}
}

// Link is a symbolic link.
func Link(name, target string) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target, Mode: 0o777}}
}

// Char is a character device that all may open.
func Char(name string, major, minor int64) Entry {
	return Entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: name, Mode: 0o666, Devmajor: major, Devminor: minor}}
}

// DevFiles are the files of /dev as runc makes them.
func DevFiles() []Entry {
	return []Entry{
		Dir("./"), Link("./stderr", "/proc/self/fd/2"), Link("./fd", "/proc/self/fd"), Link("./ptmx", "pts/ptmx"),
		Char("./urandom", 1, 9), Char("./zero", 1, 5), Char("./tty", 5, 0), Char("./full", 1, 7), Char("./random", 1, 8),
		Char("./null", 1, 3),
		Dir("./shm/"), Dir("./mqueue/"), Dir("./pts/"),
	}
}

// CgroupFiles are the files of /sys/fs/cgroup.
func CgroupFiles() []Entry { return []Entry{Dir("./"), Dir("./memory/"), Link("./mem", "memory")} }

// Archive returns the files of a tmpfs. The last one may be shorter than its header says.
func Archive(entries ...Entry) string {
	var buf bytes.Buffer
	z := gzip.NewWriter(&buf)
	w := tar.NewWriter(z)
	for _, e := range entries {
		if err := w.WriteHeader(&e.Header); err != nil {
			panic(err)
		}
		if _, err := w.Write([]byte(e.Content)); err != nil {
			panic(err)
		}
	}
	if last := entries[len(entries)-1]; last.Size == int64(len(last.Content)) {
		if err := w.Close(); err != nil {
			panic(err)
		}
	}
	if err := z.Close(); err != nil {
		panic(err)
	}
	return buf.String()
}
