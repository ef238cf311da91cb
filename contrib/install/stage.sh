#!/usr/bin/env bash
# Lays out what is installed on a node: the folder of which make dist makes an archive.
#
#   contrib/install/stage.sh BIN OUT VERSION ARCH CONTAINERD RUNC
#
# BIN has the programs that contrib/install/programs lists. CONTAINERD is what containerd says of its version.
set -euo pipefail
(($# == 6)) || { echo "stage.sh: usage: stage.sh BIN OUT VERSION ARCH CONTAINERD RUNC" >&2 && exit 1; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bin=$1 out=$2
rm -rf "$out"
install -d -m 755 "$out/bin" "$out/etc"
case $4 in
amd64) machine='3e 00' ;;
arm64) machine='b7 00' ;;
*) echo "stage.sh: unknown architecture \"$4\"" >&2 && exit 1 ;;
esac
while read -r name; do
	install -m 755 "$bin/$name" "$out/bin/$name"
	# What an ELF file begins with, and e_machine in it (elf(5)): one for another machine would only be noticed there.
	head=$(od -An -v -tx1 -N20 "$bin/$name" | tr -d '\n')
	[[ $head != ' 7f 45 4c 46 '* || $head == *" $machine" ]] || { echo "stage.sh: $bin/$name is not for $4" >&2 && exit 1; }
done <"$here/programs"
install -m 755 "$here/install.sh" "$here/uninstall.sh" "$out"
install -m 644 "$here/lib.sh" "$here/look.sh" "$here/../../LICENSE" "$out"
install -m 644 "$here/cri-restore.conf" "$here/90-restore.toml" "$out/etc"
printf 'version=%s\narch=%s\ncontainerd=%s\nrunc=%s\n' "$3" "$4" "$5" "$6" >"$out/VERSION"
chmod 644 "$out/VERSION"
sums=$(cd "$out" && find . -type f -printf '%P\0' | LC_ALL=C sort -z | xargs -0 sha256sum)
printf '%s\n' "$sums" >"$out/SHA256SUMS"
chmod 644 "$out/SHA256SUMS"
