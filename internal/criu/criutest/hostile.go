package criutest

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/eventpoll"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v7/crit/images/regfile"
	remap "github.com/checkpoint-restore/go-criu/v7/crit/images/remap-file-path"
	sk_unix "github.com/checkpoint-restore/go-criu/v7/crit/images/sk-unix"
	"google.golang.org/protobuf/proto"
)

// Hostile returns changes of an honest checkpoint's images, each of which makes a naive verification take hours or all
// memory. root is the root file system of the new container, which a checkpoint can change. What there is many of,
// there is that part of: 1 is the whole.
func Hostile(part int) map[string]func(files map[string][]byte, root string) error {
	return map[string]func(files map[string][]byte, root string) error{
		"long paths":        longPaths(15_000/part, "/", false),
		"long paths, open":  longPaths(15_000/part, "/", true),
		"long paths in dev": longPaths(15_000/part, "/dev", true),
		"deep directories":  deepDirectories(15_000 / part),
		"small files":       smallFiles(1_000_000 / part),
		"sockets behind 40": socketsBehindLinks(10_000 / part),
		"deep mounts":       deepMounts(9_900 / part),
		"epoll in one":      epolls(1, 400_000/part),
		"epoll in many":     epolls(4000/part, 100),
		"one tmpfs archive": oneArchive(256 / part),
		"deleted files":     deletedFiles(8_000 / part),
		"many descriptors":  manyDescriptors(1_000_000 / part),
		"long chains":       filterChains(4000/part, LongestChain, longChain),
		"short programs":    filterChains(4000/part, LongestChain/11, ShortProgram),
	}
}

// EntriesOf decodes an image.
func EntriesOf[M proto.Message](image []byte) []proto.Message {
	var (
		out  []proto.Message
		zero M
	)
	for b := image[min(8, len(image)):]; len(b) > 4; {
		n := int(binary.LittleEndian.Uint32(b))
		if n > len(b)-4 {
			break
		}
		m := zero.ProtoReflect().New().Interface()
		if proto.Unmarshal(b[4:4+n], m) == nil {
			out = append(out, m)
		}
		b = b[4+n:]
	}
	return out
}

// ImageLike is the first name that begins so, as of the images that have a number in their names.
func ImageLike(files map[string][]byte, prefix string) string {
	var found string
	for name := range files {
		if strings.HasPrefix(name, prefix) && (found == "" || name < found) {
			found = name
		}
	}
	return found
}

// MountAt is the ID of the mount at a mount point, 0 if there is none.
func MountAt(files map[string][]byte, at string) uint32 {
	for _, m := range EntriesOf[*mnt.MntEntry](files[ImageLike(files, "mountpoints-")]) {
		if e := m.(*mnt.MntEntry); e.GetMountpoint() == at {
			return e.GetMntId()
		}
	}
	return 0
}

// add adds files, and descriptors of them if they are to be open.
func add(files map[string][]byte, open bool, more ...*fdinfo.FileEntry) {
	all := EntriesOf[*fdinfo.FileEntry](files["files.img"])
	name := ImageLike(files, "fdinfo-")
	table := EntriesOf[*fdinfo.FdinfoEntry](files[name])
	for i, f := range more {
		all = append(all, f)
		table = append(table, Descriptor(uint32(1000+i), f))
	}
	files["files.img"] = []byte(Image("FILES", all...))
	if open {
		files[name] = []byte(Image("FDINFO", table...))
	}
}

func inMount(files map[string][]byte, at string) func(*regfile.RegFileEntry) {
	id := int32(MountAt(files, at))
	return func(e *regfile.RegFileEntry) { e.MntId = &id }
}

// longPaths are in the mount at a mount point, and not there.
func longPaths(n int, at string, open bool) func(map[string][]byte, string) error {
	return func(files map[string][]byte, _ string) error {
		var more []*fdinfo.FileEntry
		mount := inMount(files, at)
		for i := range uint32(n) {
			more = append(more, Regular(10_000+i, fmt.Sprintf("%s/%d%s", strings.TrimSuffix(at, "/"), i,
				strings.Repeat("/a", 2030)), 0o100644, mount))
		}
		add(files, open, more...)
		return nil
	}
}

// depth is how deep the directories are that are there.
const depth = 500

// deep makes them.
func deep(root string) error {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.MkdirAll(strings.Repeat("a/", depth), 0o755)
}

// deepDirectories are there, and each of the files is at another depth.
func deepDirectories(n int) func(map[string][]byte, string) error {
	return func(files map[string][]byte, root string) error {
		if err := deep(root); err != nil {
			return err
		}
		var more []*fdinfo.FileEntry
		at := inMount(files, "/")
		for i := range uint32(n) {
			more = append(more, Regular(10_000+i, fmt.Sprintf("%s/%d", strings.Repeat("/a", int(i)%depth), i), 0o100644, at))
		}
		add(files, true, more...)
		return nil
	}
}

func smallFiles(n int) func(map[string][]byte, string) error {
	return func(files map[string][]byte, _ string) error {
		var more []*fdinfo.FileEntry
		at := inMount(files, "/")
		for i := range uint32(n) {
			more = append(more, Regular(10_000+i, "/", 0o40755, at))
		}
		add(files, false, more...)
		return nil
	}
}

// socketsBehindLinks leads the way to each socket through the longest chain of links.
func socketsBehindLinks(n int) func(map[string][]byte, string) error {
	return func(files map[string][]byte, root string) error {
		long := strings.Repeat("x/../", 700)
		if err := os.MkdirAll(filepath.Join(root, "x"), 0o755); err != nil {
			return err
		}
		for i := range 40 {
			if err := os.Symlink(long+fmt.Sprintf("link%d", i+1), filepath.Join(root, fmt.Sprintf("link%d", i))); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(filepath.Join(root, "link40"), 0o755); err != nil {
			return err
		}
		id := int32(MountAt(files, "/"))
		var more []*fdinfo.FileEntry
		for i := range uint32(n) {
			more = append(more, UnixSocket(10_000+i, 0, fmt.Sprintf("/link0/%d", i),
				func(e *sk_unix.UnixSkEntry) { e.MntId = &id }))
		}
		add(files, true, more...)
		return nil
	}
}

func deepMounts(n int) func(map[string][]byte, string) error {
	return func(files map[string][]byte, _ string) error {
		name := ImageLike(files, "mountpoints-")
		all := EntriesOf[*mnt.MntEntry](files[name])
		top := MountAt(files, "/")
		parent := top
		for i := range uint32(n) {
			id := 20_000 + i
			m := Bind(id, parent, fmt.Sprintf("/%d%s", i, strings.Repeat("/a", 1+int(i)%1740)), fmt.Sprint("/", i), 0)
			if parent = id; i%100 == 99 {
				parent = top
			}
			all = append(all, m)
		}
		files[name] = []byte(Image("MNTS", all...))
		return nil
	}
}

// epolls wait for a descriptor that the process has, so that nothing ends the look at them.
func epolls(sets, each int) func(map[string][]byte, string) error {
	return func(files map[string][]byte, _ string) error {
		var more []*fdinfo.FileEntry
		for i := range sets {
			id := uint32(10_000 + i)
			e := &eventpoll.EventpollFileEntry{Id: &id, Flags: proto.Uint32(2), Fown: NoOwner()}
			for n := range each {
				e.Tfd = append(e.Tfd, &eventpoll.EventpollTfdEntry{
					Id: &id, Tfd: proto.Uint32(1000), Events: proto.Uint32(1), Data: proto.Uint64(uint64(n)), Dev: proto.Uint32(1),
					Inode: proto.Uint64(uint64(n)), Pos: proto.Uint64(0),
				})
			}
			more = append(more, &fdinfo.FileEntry{Type: fdinfo.FdTypes_EVENTPOLL.Enum(), Id: &id, Epfd: e})
		}
		add(files, true, more...)
		return nil
	}
}

// oneArchive has 60 mounts of one tmpfs, whose archive of some hundred KB becomes n MiB.
func oneArchive(n int) func(map[string][]byte, string) error {
	return func(files map[string][]byte, _ string) error {
		name := ImageLike(files, "mountpoints-")
		all := EntriesOf[*mnt.MntEntry](files[name])
		for _, m := range all {
			e := m.(*mnt.MntEntry)
			archive := fmt.Sprintf("tmpfs-dev-%d.tar.gz.img", e.GetRootDev()&0xfffff) // its minor number
			if _, ok := files[archive]; !ok {
				continue
			}
			content := []Entry{Dir("./"), File("./zeros", strings.Repeat("\x00", n<<20))}
			for _, o := range all {
				if at, ok := strings.CutPrefix(o.(*mnt.MntEntry).GetMountpoint(), e.GetMountpoint()+"/"); ok {
					content = append(content, Dir("./"+at+"/"))
				}
			}
			files[archive] = []byte(Archive(content...))
			for i := range uint32(60) {
				twin := proto.Clone(e).(*mnt.MntEntry)
				twin.MntId, twin.ParentMntId, twin.Mountpoint = proto.Uint32(30_000+i), e.MntId,
					proto.String(fmt.Sprintf("%s/%d", e.GetMountpoint(), i))
				all = append(all, twin)
			}
			break
		}
		files[name] = []byte(Image("MNTS", all...))
		return nil
	}
}

// deletedFiles were in directories that are not there, far below some that are.
func deletedFiles(n int) func(map[string][]byte, string) error {
	return func(files map[string][]byte, root string) error {
		if err := deep(root); err != nil {
			return err
		}
		var (
			more   []*fdinfo.FileEntry
			remaps []proto.Message
			at     = inMount(files, "/")
		)
		for i := range uint32(n) {
			dir := fmt.Sprintf("%s/%d%s", strings.Repeat("/a", depth), i, strings.Repeat("/a", 1000))
			more = append(more, Regular(10_000+i, dir+"/a", 0o100644, at),
				Regular(500_000+i, fmt.Sprintf("%s/link_remap.%d", dir, i), 0o100644, at))
			remaps = append(remaps, &remap.RemapFilePathEntry{OrigId: proto.Uint32(10_000 + i),
				RemapId: proto.Uint32(500_000 + i), RemapType: remap.RemapType_LINKED.Enum()})
		}
		add(files, true, more...)
		files["remap-fpath.img"] = []byte(Image("REMAP_FPATH", remaps...))
		return nil
	}
}

func manyDescriptors(n int) func(map[string][]byte, string) error {
	return func(files map[string][]byte, _ string) error {
		name := ImageLike(files, "fdinfo-")
		f := EntriesOf[*fdinfo.FileEntry](files["files.img"])[0].(*fdinfo.FileEntry)
		table := EntriesOf[*fdinfo.FdinfoEntry](files[name])
		for i := range uint32(n) {
			table = append(table, Descriptor(1000+i, f))
		}
		files[name] = []byte(Image("FDINFO", table...))
		return nil
	}
}
