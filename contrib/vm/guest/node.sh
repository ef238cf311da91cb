#!/usr/bin/env bash
# Makes the guest a node as an installer leaves it: stock containerd of the same version with a unit file and systemd's
# cgroup driver, runc, CNI, and a registry with the images of the tests.
set -euo pipefail
bin=/root/cri-restore/bin

install -m 755 $bin/containerd-stock /usr/local/bin/containerd
install -m 755 $bin/containerd-shim-runc-v2 $bin/ctr $bin/crictl /usr/local/bin/
install -m 755 $bin/runc /usr/local/sbin/runc
cat >/etc/systemd/system/containerd.service <<'UNIT'
[Unit]
Description=containerd container runtime
After=network.target

[Service]
Type=notify
ExecStart=/usr/local/bin/containerd
Delegate=yes
KillMode=process
Restart=always
RestartSec=5
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity
OOMScoreAdjust=-999
TimeoutStartSec=10min

[Install]
WantedBy=multi-user.target
UNIT
mkdir -p /etc/containerd /etc/cni/net.d
cat >/etc/cni/net.d/10-node.conflist <<'CNI'
{"cniVersion": "1.0.0", "name": "node", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
CNI
printf 'runtime-endpoint: unix:///run/containerd/containerd.sock\nimage-endpoint: unix:///run/containerd/containerd.sock\ntimeout: 300\n' >/etc/crictl.yaml

images=/var/lib/images
mkdir -p $images
[ -d $images/busybox ] || $bin/testimage $images/busybox >/dev/null
[ -d $images/sandbox ] || $bin/testimage --cmd sleep --cmd 2147483647 --file /etc/sandbox=waits $images/sandbox >/dev/null
systemctl is-active -q registry ||
	systemd-run -q --unit registry $bin/registry --listen 127.0.0.1:5000 --load $images/busybox=busybox:1 --load $images/sandbox=sandbox:1

/usr/local/bin/containerd config default |
	sed 's/SystemdCgroup = false/SystemdCgroup = true/; s#/opt/cni/bin#/usr/lib/cni#; s#sandbox = .*#sandbox = "127.0.0.1:5000/sandbox:1"#' >/etc/containerd/config.toml
grep -q 'SystemdCgroup = true' /etc/containerd/config.toml
systemctl daemon-reload
systemctl enable -q --now containerd
ctr version
