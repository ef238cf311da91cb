package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Kind says what sort of thing an entry of an Inventory is.
type Kind string

// What an Inventory lists.
const (
	KindMount     Kind = "mount"         // of the host, below the node's folder or made from something below it
	KindSnapshot  Kind = "snapshot"      // by key
	KindLease     Kind = "lease"         // by ID
	KindImage     Kind = "image"         // by name; CRI's image IDs are names too
	KindContent   Kind = "content"       // by digest
	KindIngest    Kind = "ingest"        // by reference
	KindContainer Kind = "container"     // of containerd, sandboxes' containers among them
	KindCRI       Kind = "CRI container" // of CRI's own list
	KindSandbox   Kind = "sandbox"       // of CRI and of containerd
	KindProcess   Kind = "process"       // shims, runc, CRIU, containers' processes
	KindFile      Kind = "file"          // state of containerd, CRI, our plugin, shims, runc
	KindNetwork   Kind = "network"       // addresses, interfaces, network namespaces
	KindCgroup    Kind = "cgroup"        // below Node.CgroupRoot, without pods' parents
)

// Inventory is everything that a node holds: per kind the entries and, for each,
// a description for humans.
type Inventory map[Kind]map[string]string

func (inv Inventory) add(kind Kind, key, description string) {
	if inv[kind] == nil {
		inv[kind] = map[string]string{}
	}
	// Two mounts on one mount point are two entries.
	for base, i := key, 2; ; i++ {
		if _, taken := inv[kind][key]; !taken {
			break
		}
		key = fmt.Sprintf("%s #%d", base, i)
	}
	if description == "" {
		description = key
	}
	inv[kind][key] = description
}

func (inv Inventory) has(kind Kind, key string) bool {
	_, ok := inv[kind][key]
	return ok
}

// Keys returns the sorted entries of a kind.
func (inv Inventory) Keys(kind Kind) []string {
	keys := make([]string, 0, len(inv[kind]))
	for key := range inv[kind] {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

// Diff returns what inv has and baseline has not, one "kind: description" each,
// sorted. What only the baseline has is no leak and not listed.
func (inv Inventory) Diff(baseline Inventory) []string {
	var leaks []string
	for kind, entries := range inv {
		for key, description := range entries {
			if !baseline.has(kind, key) {
				leaks = append(leaks, string(kind)+": "+description)
			}
		}
	}
	slices.Sort(leaks)
	return leaks
}

// Inventory lists what the node holds now, after a garbage collection that it
// waits for. containerd must run.
func (n *Node) Inventory(t testing.TB) Inventory {
	t.Helper()
	ctx, cancel := callContext(t)
	defer cancel()
	inv, err := n.In(t).inventory(ctx)
	if err != nil {
		t.Fatalf("harness: inventory: %v", err)
	}
	return inv
}

// RequireNoLeak fails the test when the node holds anything that baseline does
// not. It gives containerd a bounded time to finish what it does in the background.
func (n *Node) RequireNoLeak(t testing.TB, baseline Inventory) {
	t.Helper()
	if leaks := n.In(t).leaks(baseline); len(leaks) > 0 {
		t.Fatalf("harness: %d leaked:\n  %s", len(leaks), strings.Join(leaks, "\n  "))
	}
}

// Baseline makes the node's present state the one that the end of the test is
// compared with. New has done it once.
func (n *Node) Baseline() {
	n.t.Helper()
	var last Inventory
	ctx, cancel := callContext(n.t)
	defer cancel()
	// A baseline taken in the middle of containerd's background work would hide a leak.
	stable := settle(ctx, func() bool {
		inv := n.Inventory(n.t)
		same := last != nil && len(inv.Diff(last)) == 0 && len(last.Diff(inv)) == 0
		last = inv
		return same
	})
	if !stable {
		n.t.Fatalf("harness: the node does not come to rest")
	}
	n.baseline = last
}

func (n *Node) leaks(baseline Inventory) []string {
	n.t.Helper()
	ctx, cancel := callContext(n.t)
	defer cancel()
	var (
		leaks  []string
		before Inventory
	)
	settle(ctx, func() bool {
		inv, err := n.inventory(ctx)
		if err != nil {
			leaks = []string{"inventory: " + err.Error()}
			return errors.Is(err, context.DeadlineExceeded)
		}
		leaks = inv.withoutPassing(before).Diff(baseline)
		before = inv
		return len(leaks) == 0
	})
	return leaks
}

// withoutPassing leaves out the processes that were not there before: those of a shell that starts one after the other
// come and go, and some are there at any time. What is leaked stays.
func (inv Inventory) withoutPassing(before Inventory) Inventory {
	if before == nil {
		return inv
	}
	out := maps.Clone(inv)
	out[KindProcess] = map[string]string{}
	for key, description := range inv[KindProcess] {
		if before.has(KindProcess, key) {
			out[KindProcess][key] = description
		}
	}
	return out
}

func (n *Node) inventory(ctx context.Context) (Inventory, error) {
	if !n.running() {
		return nil, errors.New("containerd does not run")
	}
	inv := Inventory{}
	if err := n.listContainerd(ctx, inv); err != nil {
		return nil, err
	}
	if err := n.listCRI(ctx, inv); err != nil {
		return nil, err
	}
	return inv, n.listHost(inv)
}

// listHost lists what can be seen without containerd.
func (n *node) listHost(inv Inventory) error {
	mounts, err := mountsOf(n.dir)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.Mountpoint == filepath.Join(n.path("work"), podmanDir, "root", "overlay") {
			continue // containers/storage's own, which comes and goes with the processes of Podman and conmon
		}
		inv.add(KindMount, m.Mountpoint, fmt.Sprintf("%s (%s, %s)", m.Mountpoint, m.FSType, m.Source))
	}
	var daemonPid int
	if n.running() {
		daemonPid = n.daemon.cmd.Process.Pid
	}
	procs, err := processesOf(n.id, n.dir)
	if err != nil {
		return err
	}
	for _, p := range procs {
		if p.pid != daemonPid {
			inv.add(KindProcess, p.key(), p.String())
		}
	}
	cgroups, err := cgroupsOf(n.id)
	if err != nil {
		return err
	}
	for _, cg := range cgroups {
		if !n.isParent(cg.child) {
			inv.add(KindCgroup, cg.path, "")
		}
	}
	ips, err := n.network.reservations()
	if err != nil {
		return err
	}
	links, err := n.network.links()
	if err != nil {
		return err
	}
	for _, name := range append(ips, links...) {
		inv.add(KindNetwork, name, "")
	}
	return n.listFiles(inv)
}

// CgroupParents names cgroups below Node.CgroupRoot that pods are put into and that stay when the pods go: they are
// no leak.
func (n *Node) CgroupParents(names ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, name := range names {
		n.parents[name] = true
	}
}

func (n *node) isParent(child string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.parents[child]
}
