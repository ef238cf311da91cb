package plugin

import (
	"runtime/debug"
	"strings"

	"github.com/containerd/containerd/v2/version"
)

const modulePath = "github.com/cri-restore/cri-restore"

// ownVersion is that of this project. The Makefile writes it into containerd's own version, as build metadata; a
// containerd that others build has it from its go.mod.
func ownVersion() string {
	info, _ := debug.ReadBuildInfo()
	return versionOf(version.Version, info)
}

func versionOf(containerd string, info *debug.BuildInfo) string {
	if _, own, ok := strings.Cut(containerd, "+cri-restore."); ok {
		return own
	}
	if info != nil {
		for _, m := range append([]*debug.Module{&info.Main}, info.Deps...) {
			if m.Path == modulePath && m.Version != "" {
				return m.Version
			}
		}
	}
	return "unknown"
}
