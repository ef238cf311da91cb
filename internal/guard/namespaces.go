package guard

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// namespaceKinds are those that a spec speaks of, by their names below /proc/PID/ns. CRIU gives every container a time namespace.
var namespaceKinds = map[string]specs.LinuxNamespaceType{
	"mnt": specs.MountNamespace, "net": specs.NetworkNamespace, "pid": specs.PIDNamespace, "uts": specs.UTSNamespace,
	"ipc": specs.IPCNamespace, "cgroup": specs.CgroupNamespace, "user": specs.UserNamespace,
}

// ownNamespaces returns those of a process; of a kind that the kernel does not have there is none.
func ownNamespaces(pid string) (map[string]string, error) {
	out := map[string]string{}
	for name := range namespaceKinds {
		id, err := os.Readlink("/proc/" + pid + "/ns/" + name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[name] = id
	}
	return out, nil
}

// lookAtNamespaces compares the namespaces of the first process with the spec's.
func (i *inspection) lookAtNamespaces() (err error) {
	if i.namespaces, err = ownNamespaces(fmt.Sprint(i.init)); err != nil {
		return err
	}
	for name, kind := range namespaceKinds {
		is, nodes := i.namespaces[name], i.facts.Namespaces[name]
		found := Finding{"namespaces", "process 1", string(kind) + " namespace", is, ""}
		if is == nodes {
			found.Found = "the node's"
		}
		switch path, own := i.wantedNamespace(kind); {
		case !own && is != nodes:
			found.Allowed = "the node's"
		case own && path == "" && is == nodes:
			found.Allowed = "one of its own"
		case own && path != "":
			var want string
			if want, err = namespaceAt(path, name); err != nil {
				return err
			}
			if is == want {
				continue
			}
			found.Allowed = "the pod's, " + want
		default:
			continue
		}
		i.add(found)
	}
	return nil
}

func (i *inspection) wantedNamespace(kind specs.LinuxNamespaceType) (path string, own bool) {
	for _, n := range i.facts.Grant.Namespaces {
		if n.Type == kind {
			return n.Path, true
		}
	}
	return "", false
}

// namespaceAt names the namespace that is at a path, a file of /proc or a bind mount of one.
func namespaceAt(path, name string) (string, error) {
	f, err := fileAt(path)
	if err != nil {
		return "", fmt.Errorf("%s namespace of the pod: %w", name, err)
	}
	return fmt.Sprintf("%s:[%d]", name, f.ino), nil
}

// sameNamespaces makes sure that a process is in those of the first one.
func (i *inspection) sameNamespaces(p process) error {
	if p.pid == i.init {
		return nil
	}
	var buf [64]byte
	for name, want := range i.namespaces {
		n, err := unix.Readlink(p.path("ns/"+name), buf[:])
		if err != nil {
			return &os.PathError{Op: "readlink", Path: p.path("ns/" + name), Err: err}
		}
		if id := string(buf[:n]); id != want {
			i.add(Finding{"namespaces", p.name, string(namespaceKinds[name]) + " namespace", id, want})
		}
	}
	return nil
}
