package verify

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/cri-restore/cri-restore/internal/grant"
)

const (
	// grantFlags are those of a mount with which a pod is granted or denied something.
	grantFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC | unix.MS_NOSYMFOLLOW
	// timeFlags say when access times are written, which grants nothing.
	timeFlags = unix.MS_NOATIME | unix.MS_NODIRATIME | unix.MS_RELATIME | unix.MS_STRICTATIME
	// superFlags are those of a file system that CRIU knows, besides read-only.
	superFlags = unix.MS_SYNCHRONOUS | unix.MS_DIRSYNC | unix.MS_MANDLOCK
	// hiddenFlags are those of a mount that hides something.
	hiddenFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NOEXEC
)

// mountOptions are the options of a mount of the spec, as runc reads them.
type mountOptions struct {
	set, cleared   uint32
	propagation    uint32
	bind, idmapped bool
	data           []string
}

func parseOptions(m specs.Mount) mountOptions {
	o := grant.ParseMount(m)
	return mountOptions{set: o.Set, cleared: o.Cleared, propagation: o.Propagation, bind: o.Bind, idmapped: o.Idmapped, data: o.Data}
}

// flagNames shows flags in an error.
func flagNames(flags uint32) string {
	var names []string
	for _, f := range []struct {
		flag uint32
		name string
	}{{unix.MS_NOSUID, "nosuid"}, {unix.MS_NODEV, "nodev"}, {unix.MS_NOEXEC, "noexec"}, {unix.MS_NOSYMFOLLOW, "nosymfollow"}} {
		if flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	if flags&unix.MS_RDONLY != 0 {
		return strings.Join(append([]string{"ro"}, names...), ",")
	}
	return strings.Join(append([]string{"rw"}, names...), ",")
}
