#!/usr/bin/env bash
# Installs cri-restore on a node: looks whether it can work there, says what it does, and does it. Run again, it finds
# what is there and changes only what differs. uninstall.sh takes it away again.
set -euo pipefail
program=install.sh
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=contrib/install/lib.sh
. "$here/lib.sh"
# shellcheck source=contrib/install/look.sh
. "$here/look.sh"

usage() {
	cat <<-TEXT
		usage: install.sh [OPTION...], as root on the node
		  --dry-run       say what is found and what would be done, change nothing
		  --prefix=DIR    where the programs go (default /opt/cri-restore)
		  --no-restart    leave containerd running as it is: what is installed works after its next restart
		  --force         go on although something that was looked at does not fit
		  --destdir=DIR   write below DIR, for packages: the running system is neither looked at nor changed
	TEXT
}

force=false
for argument in "$@"; do
	case $argument in
	--force) force=true ;;
	*) common "$argument" ;;
	esac
done

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
changed=false

# put FILE PATH MODE installs a file unless it is there. Another one appears under a new name and then takes the
# place of the old one, which may be running.
put() {
	local file=$1 path=$2 mode=$3
	installed+=("$path")
	if same "$file" "$root$path"; then return; fi
	changed=true
	if [ -e "$root$path" ]; then say "replace $path"; else say "install $path"; fi
	"$dry_run" || place "$file" "$root$path" "$mode"
}

place() {
	install -d -m 755 "$(dirname "$2")"
	install -m "$3" "$1" "$2.new"
	mv -f "$2.new" "$2"
}

# remember writes the manifest. What an older version has put there and this one has not goes away.
remember() {
	local path
	if [ -f "$(manifest)" ]; then
		read_manifest "$(manifest)"
		for path in "${!was_installed[@]}"; do
			if [[ " ${installed[*]} ${kept[*]} " != *" $path "* && ${is_there[$path]:-} == "${was_installed[$path]}" ]]; then
				changed=true
				step "remove $path of an older version" rm -f "$root$path"
			fi
		done
	fi
	"$dry_run" && return
	for path in "${kept[@]}"; do echo "${was_installed[$path]} $path"; done >"$tmp/list"
	(cd "$root/" && sha256sum "${installed[@]/#/.}") | sed 's| \{1,2\}\*\{0,1\}\.| |' >>"$tmp/list"
	LC_ALL=C sort -k 2 "$tmp/list" >"$tmp/manifest"
	same "$tmp/manifest" "$(manifest)" || place "$tmp/manifest" "$(manifest)" 644
}

# keep FILE PATH installs a configuration file that is its owner's from then on: the manifest has the checksum of what
# was installed, by which uninstall.sh sees whether it was changed.
keep() {
	if [ ! -e "$root$2" ]; then
		put "$1" "$2" 644
		return
	fi
	say "$2 is there and stays as it is"
	! grep -q " $2\$" "$(manifest)" 2>/dev/null || kept+=("$2")
}

# answers says whether containerd runs as this version, with the plugin.
answers() {
	local server
	server=$(ctr version 2>/dev/null | sed -n '/^Server:/,$ s/^ *Version: *//p') || true
	[ "$server" = "${packed[containerd]}" ]
}

restart_containerd() {
	say "restart containerd: pods run on"
	systemctl daemon-reload
	if systemctl restart "$unit" && answers; then
		say "containerd ${packed[containerd]} runs"
		ctr plugins ls id==restore || true
		return
	fi
	# As it was, so that the node has a containerd.
	if [ -f "$tmp/previous" ]; then
		place "$tmp/previous" "$root$drop_in" 644
	else
		rm -f "$root$drop_in"
	fi
	systemctl daemon-reload
	systemctl restart "$unit" || true
	die "containerd did not come up as ${packed[containerd]}: the unit is as it was before, and was restarted" \
		"remedy: see \"journalctl -u containerd\", then run install.sh again"
}

installed=() kept=()
(cd "$here" && sha256sum --check --quiet --strict SHA256SUMS) >"$tmp/sums" 2>&1 ||
	die "a file is not as it was packed: $(head -n 1 "$tmp/sums")" "remedy: unpack the archive again"
declare -A packed # version, arch, containerd, runc
while IFS='=' read -r name word; do packed[$name]=$word; done <"$here/VERSION"
say "cri-restore ${packed[version]} for ${packed[arch]}, with containerd ${packed[containerd]} and runc ${packed[runc]}"
arguments='' # of the unit's containerd, which the drop-in has to repeat
if "$live"; then look_at_node; fi
if [ -f "$root$drop_in" ]; then cp "$root$drop_in" "$tmp/previous"; fi

for file in "$here"/bin/*; do put "$file" "$prefix/bin/${file##*/}" 755; done
for file in LICENSE VERSION; do put "$here/$file" "$prefix/share/cri-restore/$file" 644; done
for file in uninstall.sh lib.sh; do put "$here/$file" "$prefix/share/cri-restore/$file" "$([ "$file" = lib.sh ] && echo 644 || echo 755)"; done
if ! "$live" || has_systemd; then
	fill >"$tmp/drop-in"
	put "$tmp/drop-in" "$drop_in" 644
fi
keep "$here/etc/90-restore.toml" "$node_config"
if "$live" && [ "$(config_file)" = "$main_config" ]; then
	printf 'version = 3\nimports = ["%s/*.toml"]\n' "${node_config%/*}" >"$tmp/config.toml"
	keep "$tmp/config.toml" "$main_config"
fi
remember

if ! "$live"; then
	say "installed below $root"
elif "$dry_run"; then
	say "nothing was changed"
elif ! has_systemd; then
	say "there is no systemd: start $prefix/bin/containerd in the place of the node's containerd, with $prefix/bin first in its PATH"
elif ! "$restart"; then
	say "it works after: systemctl daemon-reload && systemctl restart containerd"
elif "$changed" || ! answers; then
	restart_containerd
else
	say "nothing to do: containerd ${packed[containerd]} runs"
fi
