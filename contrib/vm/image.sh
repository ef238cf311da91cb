# shellcheck shell=bash disable=SC2154
# Sourced by contrib/vm/test.sh: the guest's disk, made of Debian's packages. Uses say, die, suite, cache of its caller,
# and apt's settings of the machine.

# What a node has, and what the product and its tests need besides. The kernel is Debian's: it has AppArmor, and
# systemd mounts cgroup v2 alone.
packages=(
	systemd systemd-sysv udev dbus libpam-systemd linux-image-amd64 initramfs-tools e2fsprogs
	apparmor apparmor-utils openssh-server openssl ca-certificates iproute2 procps kmod psmisc
	criu containernetworking-plugins iptables nftables jq python3-minimal strace less
	busybox-static podman conmon buildah libseccomp2
)

# The host's own: QEMU, and what makes a disk. genext2fs and the like are not needed, mkfs.ext4 fills the disk itself.
host_packages=(qemu-system-x86 qemu-utils seabios ipxe-qemu mmdebstrap debian-archive-keyring openssh-client e2fsprogs)

disk_size=24G

host_deps() {
	local command missing=()
	for command in qemu-system-x86_64 qemu-img mmdebstrap ssh ssh-keygen mkfs.ext4; do
		command -v "$command" >/dev/null || missing+=("$command")
	done
	((${#missing[@]} == 0)) && return
	say "missing ${missing[*]}: installing ${host_packages[*]}"
	{
		DEBIAN_FRONTEND=noninteractive apt-get -q update &&
			DEBIAN_FRONTEND=noninteractive apt-get -q -y install --no-install-recommends "${host_packages[@]}"
	} >"$work/deps.log" 2>&1 || die "QEMU and mmdebstrap cannot be installed: $(tail -n 3 "$work/deps.log")" \
		"remedy: install ${host_packages[*]}, or what your distribution calls them"
}

# image_key names a disk by what it is made of.
image_key() { { cat "${BASH_SOURCE[0]}" && printf '%s\n' "$suite"; } | sha256sum | cut -c1-16; }

# image makes the disk, once for all checkouts that would make the same one, and sets image to its folder: root.img,
# vmlinuz, initrd, and the key that logs in.
image() {
	image=$cache/guest-$(image_key)
	[ ! -e "$image/root.img" ] || return 0
	say "making the guest's disk in $image (some minutes, once)"
	mkdir -p "$cache"
	exec 8>"$cache/lock"
	flock 8
	if [ ! -e "$image/root.img" ]; then
		rm -rf "$image.new"
		mkdir "$image.new"
		make_image "$image.new" >"$work/image.log" 2>&1 || die "the guest's disk could not be made:" "$(tail -n 5 "$work/image.log")"
		mv "$image.new" "$image"
	fi
	exec 8>&-
}

# make_image is run by image, which keeps its output.
make_image() {
	local dir=$1 root=$work/root mirror option options=() component=main
	mirror=$(debian_uri) # contrib/deps/criu.sh
	# How the machine reaches its mirror, and what it takes for valid, holds for the guest's packages.
	while read -r option; do options+=("--aptopt=${option%;}"); done < <(apt-config dump | grep -E '^Acquire::(https?|Retries|Check-|ForceIPv)')
	mmdebstrap --mode=root --variant=minbase --components="$component" --include="$(IFS=, && echo "${packages[*]}")" \
		--aptopt='APT::Install-Recommends "false"' --aptopt='Acquire::Languages "none"' "${options[@]}" \
		--dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
		"$suite" "$root" ${mirror:+"$mirror"} || return
	cp "$root"/boot/vmlinuz-* "$dir/vmlinuz" && cp "$root"/boot/initrd.img-* "$dir/initrd" && ssh-keygen -q -t ed25519 -N '' -f "$dir/key" || return
	configure_image "$root" "$dir/key.pub" || return
	truncate -s "$disk_size" "$dir/root.part" && mkfs.ext4 -q -F -d "$root" "$dir/root.part" || return
	rm -rf --one-file-system "$root"
	mv "$dir/root.part" "$dir/root.img"
}

# configure_image makes a machine of the packages: a name, a network, a log, and a way in.
configure_image() {
	local root=$1 key=$2
	install -d -m 700 "$root/root/.ssh"
	install -m 600 "$key" "$root/root/.ssh/authorized_keys"
	echo node >"$root/etc/hostname"
	echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
	printf '127.0.0.1 localhost node\n::1 localhost\n' >"$root/etc/hosts"
	printf '[Match]\nName=en*\n[Network]\nDHCP=ipv4\n' >"$root/etc/systemd/network/20-wired.network"
	rm -f "$root/etc/resolv.conf"
	: >"$root/etc/resolv.conf"
	install -d "$root/var/log/journal" "$root/etc/systemd/system.conf.d"
	# On an emulated processor everything takes longer than systemd expects.
	printf '[Manager]\nDefaultTimeoutStartSec=15min\nDefaultDeviceTimeoutSec=15min\n' >"$root/etc/systemd/system.conf.d/slow.conf"
	install -d "$root/etc/systemd/system/systemd-udevd.service.d"
	printf '[Service]\nTimeoutSec=15min\n' >"$root/etc/systemd/system/systemd-udevd.service.d/slow.conf"
	printf 'overlay\nbr_netfilter\nveth\nnf_tables\n' >"$root/etc/modules-load.d/node.conf"
	printf 'net.ipv4.ip_forward=1\n' >"$root/etc/sysctl.d/90-node.conf"
	chroot "$root" systemctl -q enable systemd-networkd ssh
	# Archives of checkpoints are made in /tmp, with what a tmpfs cannot do (fallocate(2), FALLOC_FL_INSERT_RANGE).
	chroot "$root" systemctl -q mask tmp.mount systemd-networkd-wait-online.service apt-daily.timer apt-daily-upgrade.timer man-db.timer
}
