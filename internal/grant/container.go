package grant

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/cri-restore/cri-restore/internal/rights"
)

// Container is what a spec grants the processes of a container, in numbers and names that need no rule any more to be compared with.
type Container struct {
	Process Process `json:"process"`
	// Files is whose rights to files the processes have, nil for those of whoever may open everything.
	Files *rights.Holder `json:"files,omitempty"`
	// Mounts are the spec's.
	Mounts []Mount `json:"mounts"`
	// Root is read-only, or mounts made by processes in it are seen elsewhere.
	RootReadonly bool `json:"rootReadonly,omitempty"`
	RootShared   bool `json:"rootShared,omitempty"`
	// Terminal says that there is a pseudoterminal at /dev/console.
	Terminal bool `json:"terminal,omitempty"`
	// MaskedPaths and ReadonlyPaths are hidden, or not to be written.
	MaskedPaths   []string `json:"maskedPaths,omitempty"`
	ReadonlyPaths []string `json:"readonlyPaths,omitempty"`
	// Namespaces are the container's own, or those that it joins by a path. Of a kind that is not here it has the node's.
	Namespaces []specs.LinuxNamespace `json:"namespaces"`
}

// Process is the most that any thread of a container may have.
type Process struct {
	// UIDs and GIDs are the IDs that it may have, unless it may have any.
	UIDs   []uint32 `json:"uids"`
	AnyUID bool     `json:"anyUID,omitempty"`
	GIDs   []uint32 `json:"gids"`
	AnyGID bool     `json:"anyGID,omitempty"`
	// Sets are the inheritable, permitted, effective, bounding and ambient capabilities, as bits.
	Sets [5]uint64 `json:"sets"`
	// NoNewPrivs and Seccomp are what it has to have: no_new_privs, and at least one seccomp filter.
	NoNewPrivs bool `json:"noNewPrivs,omitempty"`
	Seccomp    bool `json:"seccomp,omitempty"`
	// Label is that of the LSM, empty for none.
	Label string `json:"label,omitempty"`
	// Hard are the hard limits by the number of the resource; none: any.
	Hard []uint64 `json:"hard,omitempty"`
	// OOMScore is the lowest score that it may have, nil for any.
	OOMScore *int `json:"oomScore,omitempty"`
}

// Mount is a mount of the spec.
type Mount struct {
	// Destination is its path in the container, which may lead through links.
	Destination string `json:"destination"`
	// Source is the directory or file of the node that is bound there, empty if it is none.
	Source string `json:"source,omitempty"`
	// Type is the type of the file system that is made for it, empty for a bind mount.
	Type string `json:"type,omitempty"`
	// Flags are those that it has to have, as in mount(2): read-only, nosuid, nodev, noexec, nosymfollow.
	Flags uint32 `json:"flags,omitempty"`
	// Slave and Shared say that mounts appear in it from its source, or may be seen elsewhere.
	Slave  bool `json:"slave,omitempty"`
	Shared bool `json:"shared,omitempty"`
	// Below are the flags of the mounts of cgroup v1 that runc makes below it, nil if it makes none.
	Below *uint32 `json:"below,omitempty"`
}
