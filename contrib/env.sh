# shellcheck shell=sh
# Sourced by the Makefile and by the scripts: puts the built binaries and what
# contrib/deps.sh unpacked in front of PATH, and names the folder of the CNI
# plugins. It installs nothing and fails on nothing: whoever misses something
# runs contrib/deps.sh, which says what.
#
# CRI_RESTORE_REPO is the top of the repository; by default the working directory.
# CRI_RESTORE_PREFIX is where contrib/deps.sh unpacks what the system lacks.

: "${CRI_RESTORE_REPO:=$(pwd)}"
: "${CRI_RESTORE_PREFIX:=/opt/cri-restore}"
export CRI_RESTORE_REPO CRI_RESTORE_PREFIX

# runc starts "criu" by name, with the PATH of the shim, which is the one of
# containerd: so PATH is how all of them learn which CRIU is meant. The sbin
# folders are for iptables and ip, and are not on every user's PATH.
PATH="$CRI_RESTORE_REPO/bin:$CRI_RESTORE_PREFIX/bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export PATH

# CNI_PATH is CNI's own name for it. Debian and Ubuntu use /usr/lib/cni, Fedora
# /usr/libexec/cni, everything else /opt/cni/bin.
if [ -z "${CNI_PATH:-}" ]; then
	for CNI_PATH in /opt/cni/bin /usr/libexec/cni /usr/lib/cni; do
		[ -x "$CNI_PATH/bridge" ] && [ -x "$CNI_PATH/host-local" ] &&
			[ -x "$CNI_PATH/loopback" ] && [ -x "$CNI_PATH/portmap" ] && break
	done
fi
export CNI_PATH
