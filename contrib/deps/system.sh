# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by contrib/deps.sh: what comes from the system's own packages.
# Uses say, die, repo, tmp of its caller.

# The names that present, describe and package_of know.
items=(gcc headers pkg-config libseccomp cni iptables ip busybox jq ca)

cni_plugins=(bridge host-local loopback portmap)

# present tells whether an item is usable. It tries the thing instead of asking
# the package database, so that what was installed by hand counts.
present() {
	case $1 in
	gcc) have gcc ;;
	headers) # what cgo in containerd (btrfs snapshotter) and the race detector include
		have gcc && printf '#include <stdlib.h>\n#include <linux/btrfs.h>\n' |
			gcc -fsyntax-only -x c - 2>/dev/null ;;
	pkg-config) have pkg-config ;;
	libseccomp) have pkg-config && pkg-config --exists libseccomp ;;
	cni) [ -n "$(cni_dir)" ] ;;
	iptables) have iptables && have iptables-restore ;;
	ip) have ip ;;
	# Static, because it is the whole root file system of the test image: ldd
	# succeeds on a dynamic binary only.
	busybox) have busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1 ;;
	jq) have jq ;;
	ca) [ -r /etc/ssl/certs/ca-certificates.crt ] || [ -r /etc/pki/tls/certs/ca-bundle.crt ] ||
		[ -r /etc/ssl/ca-bundle.pem ] || [ -r "${SSL_CERT_FILE:-/nonexistent}" ] ;;
	esac
}

describe() {
	case $1 in
	gcc) echo "gcc, the C compiler (cgo: runc's nsenter, go test -race)" ;;
	headers) echo "headers of the C library and of Linux (libc6-dev, linux-libc-dev)" ;;
	pkg-config) echo "pkg-config (build of runc)" ;;
	libseccomp) echo "libseccomp with headers, seen by pkg-config (build of runc)" ;;
	cni) echo "CNI plugins ${cni_plugins[*]} in one of /opt/cni/bin, /usr/libexec/cni, /usr/lib/cni, or in CNI_PATH" ;;
	iptables) echo "iptables and iptables-restore (CNI bridge and portmap, CRIU's network lock)" ;;
	ip) echo "ip of iproute2 (CRIU, tests of pod networks)" ;;
	busybox) echo "busybox, statically linked (root file system of the test images)" ;;
	jq) echo "jq (demo script, test summary)" ;;
	ca) echo "CA certificates (Go module downloads)" ;;
	criu) echo "CRIU $criu_min or newer that passes \"criu check\" and a dump and restore of a process${criu_reason:+ ($criu_reason)}" ;;
	esac
}

# package_of names the package of Debian and Ubuntu, or nothing where
# contrib/deps.sh unpacks it instead.
package_of() {
	case $1 in
	gcc) echo gcc ;;
	headers) echo libc6-dev ;;
	pkg-config) echo pkg-config ;;
	libseccomp) echo libseccomp-dev ;;
	cni) echo containernetworking-plugins ;;
	iptables) echo iptables ;;
	ip) echo iproute2 ;;
	# busybox-static would remove an installed busybox: see unpack_busybox.
	busybox) have busybox || echo busybox-static ;;
	jq) echo jq ;;
	ca) echo ca-certificates ;;
	esac
}

have() { command -v "$1" >/dev/null 2>&1; }

# cni_dir prints the folder that holds all plugins; env.sh chose it before
# anything was installed, so it is looked for again.
cni_dir() {
	local dir plugin
	for dir in "$CNI_PATH" /opt/cni/bin /usr/libexec/cni /usr/lib/cni; do
		for plugin in "${cni_plugins[@]}"; do
			[ -x "$dir/$plugin" ] || continue 2
		done
		echo "$dir"
		return
	done
}

# os_field prints a field of os-release. CRI_RESTORE_OS_RELEASE names another
# file, for tests of this script.
os_field() {
	local file=${CRI_RESTORE_OS_RELEASE:-/etc/os-release}
	[ -r "$file" ] || return 0
	# shellcheck disable=SC1090
	(. "$file" && eval "printf '%s' \"\${$1:-}\"")
}

os_name() {
	local name
	name=$(os_field PRETTY_NAME)
	echo "${name:-this system}"
}

supported() {
	have apt-get && have dpkg-deb && [[ " $(os_field ID) $(os_field ID_LIKE) " =~ \ (debian|ubuntu)\  ]]
}

# check_go fails when Go is missing or too old for go.mod. Go is not installed
# from packages: no Debian release has the version that containerd 2.4 asks for.
check_go() {
	local want reason
	want=$(sed -n 's/^go //p' "$repo/go.mod")
	have go || die "go: not found on PATH: the build needs Go $want or newer" \
		"remedy: install it from https://go.dev/dl/ and put its bin folder on PATH"
	reason=$(cd "$repo" && go list -m 2>&1 >/dev/null) || die "go: cannot use this module: $reason" \
		"remedy: install Go $want or newer from https://go.dev/dl/"
}

# install_packages installs from the system's own sources. --no-remove: nothing
# that is there may go to make room. What apt says is shown only when it fails.
install_packages() {
	local out known
	known=$(LC_ALL=C apt-cache policy "$@" | grep -c '^ *Candidate: [^(]' || true)
	if ((known < $#)); then
		say "refreshing the package lists"
		apt_get update || die "apt-get update failed: the package lists cannot be fetched" \
			"remedy: repair the system's package sources (see the lines above), then run contrib/deps.sh again"
	fi
	say "installing $*"
	out=$(apt_get install -y --no-install-recommends --no-remove "$@" 2>&1) && return
	printf '%s\n' "$out" >&2
	die "apt-get could not install $*: see the lines above" \
		"remedy: make \"apt-get update\" and \"apt-get install $*\" work, then run contrib/deps.sh again"
}

apt_get() {
	DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 -o Dpkg::Use-Pty=0 "$@"
}

# unpack_busybox takes the static busybox without installing it: its package
# conflicts with busybox, on which initramfs-tools may depend.
unpack_busybox() {
	say "unpacking busybox-static into $CRI_RESTORE_PREFIX: the installed busybox is dynamic and stays"
	# As root: the user _apt may not write into our folder.
	local download=(-o APT::Sandbox::User=root download busybox-static)
	(cd "$tmp" && { apt_get "${download[@]}" 2>/dev/null || { apt_get update && apt_get "${download[@]}"; }; }) ||
		die "busybox-static: apt-get download failed: see the lines above" \
			"remedy: repair the system's package sources, then run contrib/deps.sh again"
	dpkg-deb -x "$tmp"/busybox-static_*.deb "$tmp/busybox"
	mkdir -p "$CRI_RESTORE_PREFIX/bin"
	# /bin/busybox in bookworm, /usr/bin/busybox in later releases
	find "$tmp/busybox" -type f -name busybox -path '*/bin/*' -exec install -m 755 {} "$CRI_RESTORE_PREFIX/bin/" \;
	hash -r
}
