package grant

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
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

// MountOptions are the options of a mount of the spec, as runc reads them.
type MountOptions struct {
	// Set and Cleared are the flags, as mount(2) has them, that the options name.
	Set, Cleared uint32
	// Propagation is one of MS_PRIVATE, MS_SLAVE, MS_SHARED and MS_UNBINDABLE, 0 if the options name none.
	Propagation uint32
	// Bind says that it is a bind mount, Idmapped that its owners are mapped.
	Bind, Idmapped bool
	// Data are the options for the file system itself.
	Data []string
}

// ParseMount reads the options of a mount.
func ParseMount(m specs.Mount) MountOptions {
	var o MountOptions
	o.Bind = m.Type == "bind"
	o.Idmapped = m.UIDMappings != nil || m.GIDMappings != nil
options:
	for _, opt := range m.Options {
		if f, ok := flagOptions[opt]; ok {
			if f.clear {
				o.Set &^= f.flag
				o.Cleared |= f.flag
			} else {
				o.Set |= f.flag
				o.Cleared &^= f.flag
			}
			continue
		}
		if p, ok := propagations[opt]; ok {
			o.Propagation = p
			continue
		}
		for _, other := range otherOptions {
			if opt == other {
				continue options
			}
		}
		switch opt {
		case "bind", "rbind":
			o.Bind = true
		case "idmap", "ridmap":
			o.Idmapped = true
		default:
			o.Data = append(o.Data, opt)
		}
	}
	return o
}
