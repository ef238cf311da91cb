# shellcheck shell=bash disable=SC2034,SC2059,SC2154
# Sourced by install.sh and uninstall.sh, from the folder that both are in.
#
# CRI_RESTORE_SYSROOT is for tests of these scripts: it is put before the paths of the system.

say() { printf '%s: %s\n' "$program" "$*"; }
complain() { printf "$program: %s\n" "$@" >&2; }
die() {
	complain "$@"
	exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

root=${CRI_RESTORE_SYSROOT:-}
prefix=/opt/cri-restore
live=true # it is the running system that is changed
dry_run=false
restart=true

unit=containerd.service
drop_in=/etc/systemd/system/$unit.d/cri-restore.conf
main_config=/etc/containerd/config.toml
node_config=/etc/containerd/conf.d/90-restore.toml
state=io.containerd.cri.v1.restore # below containerd's root, /var/lib/containerd

# manifest names what install.sh has put there, one "SHA256 PATH" a line.
manifest() { printf '%s%s/share/cri-restore/manifest' "$root" "$prefix"; }

# step says what is done, and does it unless it is only to be said.
step() {
	say "$1"
	shift
	"$dry_run" || "$@"
}

# fill writes the drop-in for the unit.
fill() { sed "s|@PREFIX@|$prefix|g; s|@ARGUMENTS@|${arguments:+ $arguments}|" "$here/etc/cri-restore.conf"; }

same() { [ -f "$2" ] && cmp -s "$1" "$2"; }

# read_manifest sets checksums, by path: of what was installed, and of what is there now.
declare -A was_installed=() is_there=()
read_manifest() {
	local checksum path list=()
	while read -r checksum path; do
		was_installed[$path]=$checksum
		[ ! -f "$root$path" ] || list+=("$root$path")
	done <"$1"
	while read -r checksum path; do is_there[${path#"$root"}]=$checksum; done < <(((${#list[@]} == 0)) || sha256sum "${list[@]}")
}

# at_least VERSION MINIMUM compares two version numbers.
at_least() { [ "$(printf '%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]; }

has_systemd() { have systemctl && [ -d "$root/run/systemd/system" ]; }

# command_line prints with what the unit starts containerd, drop-ins included: systemd's own word, or the unit's file.
command_line() {
	local dir file
	if has_systemd; then
		systemctl show "$unit" --property=ExecStart --value | sed -n 's/.*argv\[\]=\([^;]*[^; ]\) *;.*/\1/p' | tail -n 1
		return
	fi
	for dir in /etc/systemd/system /run/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
		file=$root$dir/$unit
		[ -f "$file" ] || continue
		sed -n 's/^ExecStart=\(.\)/\1/p' "$file" | tail -n 1
		return
	done
}

# ctr calls containerd in Kubernetes' namespace.
ctr() { "$root$prefix/bin/ctr" --namespace k8s.io "$@"; }

# common reads the arguments that both scripts have, and fails for others.
common() {
	case $1 in
	--prefix=/*) prefix=${1#--prefix=} ;;
	--destdir=/*) root=${1#--destdir=} live=false ;;
	--dry-run) dry_run=true ;;
	--no-restart) restart=false ;;
	--help | -h)
		usage
		exit 0
		;;
	*) die "unknown argument \"$1\": see $program --help" ;;
	esac
	# They are written into files that systemd and sed read.
	[[ $prefix =~ ^(/[A-Za-z0-9._+-]+)+$ ]] || die "--prefix=$prefix: a path of letters, digits and ._+- is wanted"
}
