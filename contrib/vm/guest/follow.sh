#!/usr/bin/env bash
# Follows docs/install.md, literally: "install" runs the commands of the steps from 2 on, "back" those of the way back.
# What make dist has packed is in the folder where they run.
set -euo pipefail
repo=/root/cri-restore
mkdir -p /root/node
cd /root/node
cp -n $repo/bin/dist/cri-restore-*-linux-*.tar.gz .

steps=$(mktemp)
awk -v part="$1" '
	/^## / { on = part == "back" ? /^## Going back/ : $2 + 0 >= 2 }
	/^```/ { inside = !inside; next }
	on && inside
' $repo/docs/install.md >"$steps"
[ -s "$steps" ] || { echo "docs/install.md has no commands to $1" >&2 && exit 1; }
bash -xeuo pipefail "$steps"

if [ "$1" = back ]; then
	ctr version
	if ctr version | grep -q cri-restore; then exit 1; fi
	exit 0
fi
# Everything may be restored here.
cat >/etc/containerd/conf.d/91-tests.toml <<'CONF'
version = 3

[plugins.'io.containerd.cri.v1.restore']
  allowed_images = ["**"]
  allowed_namespaces = ["*"]
  allow_archives = true
  allow_checkpoint_images = true
  pod_annotations = ["tcp-connections", "lazy-pages", "checkpoint-compression", "on-failure"]

# Containers that may write their own cgroup.
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.writable]
  runtime_type = 'io.containerd.runc.v2'
  cgroup_writable = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.writable.options]
    SystemdCgroup = true
CONF
systemctl restart containerd
ctr plugins ls | awk '$2 == "restore" { state = $NF } END { print "restore: " state; exit state != "ok" }'
