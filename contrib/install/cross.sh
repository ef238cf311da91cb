#!/usr/bin/env bash
# What a build for another machine needs, on Debian and Ubuntu.
#
#   contrib/install/cross.sh ARCH        fetch what is missing, or say what is
#   contrib/install/cross.sh --env ARCH  print the environment of the build
#
# The compiler is a package of the system. The library that runc is linked with, libseccomp, and its headers are packages
# of the other machine: they are unpacked below ~/.cache/cri-restore (XDG_CACHE_HOME), and the system's package database
# does not learn of a second architecture.
set -euo pipefail

die() {
	printf 'cross.sh: %s\n' "$@" >&2
	exit 1
}

print=false
[ "${1:-}" != --env ] || { print=true && shift; }
arch=${1:-}
case $arch in
arm64) triplet=aarch64-linux-gnu ;;
amd64) triplet=x86_64-linux-gnu ;;
*) die "unknown architecture \"$arch\": arm64 or amd64 is wanted" ;;
esac
compiler=$triplet-gcc
tree=${XDG_CACHE_HOME:-$HOME/.cache}/cri-restore/cross-$arch

if "$print"; then
	# pkg-config finds libseccomp of the other machine only, and puts its folder before the paths in it.
	echo "GOOS=linux GOARCH=$arch CGO_ENABLED=1 CC=$compiler PKG_CONFIG_LIBDIR=$tree/usr/lib/$triplet/pkgconfig PKG_CONFIG_SYSROOT_DIR=$tree"
	exit
fi

command -v pkg-config >/dev/null || die "pkg-config is missing" "remedy: make deps"
if ! command -v "$compiler" >/dev/null || [ ! -e "/usr/$triplet/include/stdio.h" ]; then
	package=gcc-${triplet/x86_64/x86-64}
	die "the compiler $compiler, or its C library, is missing" \
		"remedy, as root: apt-get install --no-install-recommends $package libc6-dev-$arch-cross"
fi
[ ! -e "$tree/complete" ] || exit 0
for tool in apt-get dpkg-deb; do
	command -v "$tool" >/dev/null || die "$tool is missing: libseccomp for $arch has to be unpacked below $tree by hand" \
		"it needs usr/lib/$triplet/libseccomp.* and pkgconfig/libseccomp.pc, and usr/include/seccomp.h; then: touch $tree/complete"
done
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
chmod 755 "$tmp"
# A state of apt's own, in which the other architecture is the only one; sources and keys are the system's.
mkdir -p "$tmp"/{state/lists/partial,cache/archives/partial}
: >"$tmp/status"
cat >"$tmp/apt.conf" <<CONF
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "root";
Acquire::Languages "none";
Dir::State "$tmp/state";
Dir::State::status "$tmp/status";
Dir::Cache "$tmp/cache";
CONF
export APT_CONFIG=$tmp/apt.conf
echo "cross.sh: fetching libseccomp for $arch"
out=$(apt-get -q update 2>&1 && cd "$tmp" && apt-get -q download libseccomp2 libseccomp-dev 2>&1) ||
	die "libseccomp for $arch cannot be fetched: $(grep -E '^(E|W|Err)' <<<"$out" | tail -n 3 | tr '\n' ' ')" \
		"remedy: repair the system's package sources; on Ubuntu, arm64 is at ports.ubuntu.com"
rm -rf "$tree"
mkdir -p "$tree"
for deb in "$tmp"/*.deb; do dpkg-deb -x "$deb" "$tree"; done
if [ ! -e "$tree/usr/include/seccomp.h" ] || [ ! -e "$tree/usr/lib/$triplet/libseccomp.so" ]; then
	die "the packages of libseccomp for $arch lack the library or its header"
fi
touch "$tree/complete"
