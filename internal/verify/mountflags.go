package verify

import (
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
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

// flagOptions are the options of a mount that are flags, and whether they set or clear
// them (runc: libcontainer/specconv/spec_linux.go, initMaps). The recursive ones mean the mount
// itself too, and no mount below a bind mount is accepted.
var flagOptions = map[string]struct {
	flag  uint32
	clear bool
}{
	"ro": {unix.MS_RDONLY, false}, "rro": {unix.MS_RDONLY, false}, "rw": {unix.MS_RDONLY, true}, "rrw": {unix.MS_RDONLY, true},
	"nosuid": {unix.MS_NOSUID, false}, "rnosuid": {unix.MS_NOSUID, false}, "suid": {unix.MS_NOSUID, true}, "rsuid": {unix.MS_NOSUID, true},
	"nodev": {unix.MS_NODEV, false}, "rnodev": {unix.MS_NODEV, false}, "dev": {unix.MS_NODEV, true}, "rdev": {unix.MS_NODEV, true},
	"noexec": {unix.MS_NOEXEC, false}, "rnoexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true}, "rexec": {unix.MS_NOEXEC, true},
	"nosymfollow": {unix.MS_NOSYMFOLLOW, false}, "rnosymfollow": {unix.MS_NOSYMFOLLOW, false},
	"symfollow": {unix.MS_NOSYMFOLLOW, true}, "rsymfollow": {unix.MS_NOSYMFOLLOW, true},
	"noatime": {unix.MS_NOATIME, false}, "rnoatime": {unix.MS_NOATIME, false}, "atime": {unix.MS_NOATIME, true}, "ratime": {unix.MS_NOATIME, true},
	"nodiratime": {unix.MS_NODIRATIME, false}, "rnodiratime": {unix.MS_NODIRATIME, false},
	"diratime": {unix.MS_NODIRATIME, true}, "rdiratime": {unix.MS_NODIRATIME, true},
	"relatime": {unix.MS_RELATIME, false}, "rrelatime": {unix.MS_RELATIME, false},
	"norelatime": {unix.MS_RELATIME, true}, "rnorelatime": {unix.MS_RELATIME, true},
	"strictatime": {unix.MS_STRICTATIME, false}, "rstrictatime": {unix.MS_STRICTATIME, false},
	"nostrictatime": {unix.MS_STRICTATIME, true}, "rnostrictatime": {unix.MS_STRICTATIME, true},
	"sync": {unix.MS_SYNCHRONOUS, false}, "async": {unix.MS_SYNCHRONOUS, true}, "dirsync": {unix.MS_DIRSYNC, false},
	"mand": {unix.MS_MANDLOCK, false}, "nomand": {unix.MS_MANDLOCK, true},
}

// propagations are the options that say from where mounts appear below a mount.
var propagations = map[string]uint32{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE, "slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED, "unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE,
}

// otherOptions are neither flags that CRIU restores nor data for the file system.
var otherOptions = []string{
	"defaults", "silent", "loud", "remount", "iversion", "noiversion", "lazytime", "nolazytime", "acl", "noacl", "tmpcopyup",
}

// mountOptions are the options of a mount of the spec, as runc reads them.
type mountOptions struct {
	set, cleared   uint32
	propagation    uint32
	bind, idmapped bool
	data           []string
}

func parseOptions(m specs.Mount) mountOptions {
	var o mountOptions
	o.bind = m.Type == "bind"
	o.idmapped = m.UIDMappings != nil || m.GIDMappings != nil
options:
	for _, opt := range m.Options {
		if f, ok := flagOptions[opt]; ok {
			if f.clear {
				o.set &^= f.flag
				o.cleared |= f.flag
			} else {
				o.set |= f.flag
				o.cleared &^= f.flag
			}
			continue
		}
		if p, ok := propagations[opt]; ok {
			o.propagation = p
			continue
		}
		for _, other := range otherOptions {
			if opt == other {
				continue options
			}
		}
		switch opt {
		case "bind", "rbind":
			o.bind = true
		case "idmap", "ridmap":
			o.idmapped = true
		default:
			o.data = append(o.data, opt)
		}
	}
	return o
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
