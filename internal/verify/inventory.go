package verify

import (
	"fmt"
	"regexp"

	"github.com/checkpoint-restore/go-criu/v7/crit/images/inventory"
	"github.com/containerd/errdefs"

	"github.com/cri-restore/cri-restore/internal/criu"
)

// The fields of inventory.img that go-criu does not know (criu.Decode), and what CRIU
// takes for a new kind of images.
const (
	inventoryPlugins = 12
	inventoryRunID   = 13
	inventoryUprobes = 14
	// inventoryCompress is 0 for pages as they are (CRIU 4.3).
	inventoryCompress = 15
	imagesVersion     = 2
)

// The ways in which CRIU keeps a network silent (CRIU: criu/include/cr_options.h, NETWORK_LOCK_METHOD).
const lastNetworkLock = 2

// runID is what uuid_unparse(3) writes.
var runID = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// inventory checks what CRIU is told about all images (criu/image.c, check_img_inventory).
func (v *verifier) inventory() error {
	const name = "inventory.img"
	inv, err := v.images.Inventory()
	if err != nil {
		return err
	}
	v.report.TCPClosed = inv.GetTcpClose()
	compressed, err := criu.Varints(inv, inventoryCompress)
	if err != nil {
		return malformed(name, "%s", err)
	}
	for _, mode := range compressed {
		if mode != 0 {
			return fmt.Errorf("the memory is compressed by CRIU (compress is %d in %s), which cannot be verified: take the checkpoint without CRIU's option "+
				"compress; checkpoint_compression makes it smaller, too: %w", mode, name, errdefs.ErrFailedPrecondition)
		}
	}
	switch {
	case inv.GetImgVersion() != imagesVersion:
		return malformed(name, "the images are of version %d, not %d", inv.GetImgVersion(), imagesVersion)
	case !inv.GetFdinfoPerId() || !inv.GetNsPerId():
		// Images would be read by other names than those that are checked.
		return malformed(name, "the images are of an old version of CRIU")
	case inv.RootCgSet != nil && inv.GetRootCgSet() == 0:
		return malformed(name, "the cgroup of CRIU has the number 0")
	case inv.GetLsmtype() < 0 || inv.GetLsmtype() > inventory.Lsmtype_APPARMOR:
		return malformed(name, "security module %d is unknown", inv.GetLsmtype())
	case inv.GetNetworkLockMethod() > lastNetworkLock:
		return malformed(name, "network lock method %d is unknown", inv.GetNetworkLockMethod())
	}
	for kind, id := range criu.NamespaceIDs {
		if id(inv.GetRootIds()) == 0 {
			return malformed(name, "it does not say which %s namespace CRIU was in", kind)
		}
	}
	// CRIU builds a command for nft with it, which it runs in the pod's network namespace, with
	// hostNetwork in the node's (criu/netfilter.c, nftables_get_table; criu/net.c, nftables_network_unlock).
	ids, err := criu.Messages(inv, inventoryRunID)
	if err != nil {
		return malformed(name, "%s", err)
	}
	for _, id := range ids {
		if !runID.Match(id) {
			return malformed(name, "the ID of CRIU's run is no UUID")
		}
	}
	plugins, err := criu.Messages(inv, inventoryPlugins)
	if err != nil {
		return malformed(name, "%s", err)
	}
	for _, p := range plugins {
		if len(p) > 0 {
			v.refuse(Finding{
				Check: "images", Object: "image " + name, Field: "plugins", Found: "plugins of CRIU that were used", Allowed: "none",
				Remedy: "the container uses devices, such as a GPU, that cannot be restored",
			})
		}
	}
	uprobes, err := criu.Varints(inv, inventoryUprobes)
	if err != nil {
		return malformed(name, "%s", err)
	}
	for _, n := range uprobes {
		if n != 0 {
			v.refuse(Finding{
				Check: "images", Object: "image " + name, Field: "allow_uprobes", Found: fmt.Sprint(n), Allowed: "0",
				Remedy: "detach what traces the container before it is checkpointed",
			})
		}
	}
	return nil
}
