package checkpoint

import (
	"fmt"
	"path"

	"github.com/containerd/errdefs"
)

// bindsFile is CRI-O's list of bind mounts (go.podman.io/common/pkg/crutils and cri-o internal/lib/checkpoint.go).
// CRI-O makes missing sources on the node by it; nothing is made here.
const bindsFile = "bind.mounts"

// bind is an entry of that list.
type bind struct {
	Destination string `json:"destination"`
	FileType    string `json:"file_type"`
}

// readBinds returns which bind mounts were directories, nil if the engine has not recorded it.
func (c *Checkpoint) readBinds() (map[string]bool, error) {
	var list []bind
	err := readJSON(c.root, bindsFile, c.limits, &list)
	if errdefs.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	binds := make(map[string]bool, len(list))
	for i, b := range list {
		if err := checkText(b.Destination); err != nil {
			return nil, fmt.Errorf("%s: entry %d, %s: %w", bindsFile, i, quote(b.Destination), err)
		}
		switch b.FileType {
		case "file", "directory":
			binds[path.Clean("/"+b.Destination)] = b.FileType == "directory"
		}
	}
	return binds, nil
}
