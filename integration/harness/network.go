package harness

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
)

// network is a node's CNI network: a bridge and a subnet that no other node of
// the machine has.
type network struct {
	name   string // of the CNI network and, cut to 15 bytes, of the bridge
	bridge string
	data   string // host-local's data folder
	lock   net.Listener
}

// newNetwork writes the CNI configuration. The subnet is one of 10.231.0.0/16 and
// is taken by listening on an abstract Unix socket that names it: another test
// process cannot have the same, and the kernel frees it when this process dies.
func newNetwork(id, confDir, dataDir string, portmap bool) (*network, error) {
	third, lock, err := takeSubnet()
	if err != nil {
		return nil, err
	}
	nw := &network{name: id, bridge: id[:min(len(id), 15)], data: filepath.Join(dataDir, id), lock: lock}
	plugins := []table{{
		"type": "bridge", "bridge": nw.bridge, "isGateway": true, "ipMasq": false, "hairpinMode": true,
		"ipam": table{
			"type": "host-local", "dataDir": dataDir,
			"ranges": [][]table{{{"subnet": fmt.Sprintf("10.231.%d.0/24", third)}}},
			"routes": []table{{"dst": "0.0.0.0/0"}},
		},
	}}
	if portmap {
		// It acts only on pods with port mappings.
		plugins = append(plugins, table{"type": "portmap", "capabilities": table{"portMappings": true}})
	}
	conf, err := json.MarshalIndent(table{"cniVersion": "1.0.0", "name": nw.name, "plugins": plugins}, "", "  ")
	if err != nil {
		return nil, err
	}
	return nw, os.WriteFile(filepath.Join(confDir, "10-"+nw.name+".conflist"), conf, 0o600)
}

func takeSubnet() (int, net.Listener, error) {
	used, err := net.InterfaceAddrs()
	if err != nil {
		return 0, nil, fmt.Errorf("list addresses: %w", err)
	}
next:
	for third := range 256 {
		_, subnet, err := net.ParseCIDR(fmt.Sprintf("10.231.%d.0/24", third))
		if err != nil {
			return 0, nil, err
		}
		for _, addr := range used {
			if ipnet, ok := addr.(*net.IPNet); ok && (subnet.Contains(ipnet.IP) || ipnet.Contains(subnet.IP)) {
				continue next
			}
		}
		if lock, err := net.Listen("unix", "@cri-restore-test-"+subnet.String()); err == nil {
			return third, lock, nil
		}
	}
	return 0, nil, errors.New("every subnet of 10.231.0.0/16 is taken by another node")
}

// reservations lists the addresses that host-local has given out.
func (nw *network) reservations() ([]string, error) {
	entries, err := os.ReadDir(nw.data)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var ips []string
	for _, entry := range entries {
		if net.ParseIP(entry.Name()) != nil {
			owner, _ := os.ReadFile(filepath.Join(nw.data, entry.Name()))
			first, _, _ := strings.Cut(string(owner), "\n")
			ips = append(ips, entry.Name()+" of "+strings.TrimSpace(first))
		}
	}
	return ips, err
}

// links lists the interfaces on the bridge. The kernel's list of one bridge is whole at
// any moment; netlink's list of all interfaces is not while another node changes some.
func (nw *network) links() ([]string, error) {
	entries, err := os.ReadDir(filepath.Join("/sys/class/net", nw.bridge, "brif"))
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, err
}

func removeBridge(name string) error {
	bridge, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil
	}
	if err == nil {
		err = netlink.LinkDel(bridge)
	}
	if err != nil {
		return fmt.Errorf("remove bridge %s: %w", name, err)
	}
	return nil
}
