#!/usr/bin/env bash
# Takes cri-restore from a node again: containerd is then the one that was there before. Says what it does, does nothing
# while a container waits for its restore, and leaves what somebody has changed.
set -euo pipefail
program=uninstall.sh
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=contrib/install/lib.sh
. "$here/lib.sh"

usage() {
	cat <<-TEXT
		usage: uninstall.sh [OPTION...], as root on the node
		  --dry-run       say what is found and what would be done, change nothing
		  --prefix=DIR    where the programs are (default: where this script is installed, or /opt/cri-restore)
		  --no-restart    leave containerd running as it is
		  --purge         take away the configuration too, if it was changed, and what checkpoints and restores have left
		  --destdir=DIR   what was installed below DIR; the running system is neither looked at nor changed
	TEXT
}

case $here in */share/cri-restore) prefix=${here%/share/cri-restore} prefix=${prefix#"$root"} ;; esac
purge=false
for argument in "$@"; do
	case $argument in
	--purge) purge=true ;;
	*) common "$argument" ;;
	esac
done

# examine finds the restored containers, and those among them that were created and not started. The label finds
# candidates only: a container has the labels of its image as well. What the plugin believes are its extensions, JSON in
# base64 (internal/origin and internal/restore of the project).
restored=() waiting=()
examine() {
	local id tasks info origin record
	tasks=$(ctr tasks ls -q)
	for id in $(ctr containers ls -q 'labels."org.criu.restore/id"'); do
		info=$(ctr containers info "$id" | tr -d ' \t\n')
		origin=$(extension origin "$info")
		record=$(extension record "$info")
		# An ordinary one, or one that began anew.
		if [ -z "$origin$record" ] || [[ $origin == *'"fresh":"'* ]]; then continue; fi
		restored+=("$id")
		[[ $record == *'"ended":true'* ]] || grep -qxF -- "$id" <<<"$tasks" || waiting+=("$id")
	done
}

extension() {
	sed -n "s|.*\"org.criu.restore/$1\":{\([^}]*\)}.*|\1|p" <<<"$2" | sed -n 's/.*"value":"\([^"]*\)".*/\1/p' | base64 -d 2>/dev/null || true
}

# leave removes a file. A configuration that somebody has changed stays.
leave() {
	local path=$1
	[ -e "$root$path" ] || return 0
	if [ "${is_there[$path]:-}" != "${was_installed[$path]}" ]; then
		case $path in
		"$main_config") say "$path was changed and stays" && return ;;
		"$node_config")
			if ! "$purge"; then
				say "$path was changed and stays (a containerd without the plugin only warns of it)"
				return
			fi
			;;
		esac
	fi
	step "remove $path" rm -f "$root$path"
}

# empty removes the folders of the installation that nothing is left in.
empty() {
	local dir
	for dir in "$prefix/share/cri-restore" "$prefix/share" "$prefix/bin" "$prefix" "${drop_in%/*}" "${node_config%/*}"; do
		[ ! -d "$root$dir" ] || "$dry_run" || rmdir "$root$dir" 2>/dev/null || true
	done
}

# data removes what checkpoints and restores have left, once no restored container is there and nothing is mounted below.
data() {
	local dir=$root/var/lib/containerd/$state
	[ -d "$dir" ] || [ -d "$root/run/containerd/$state" ] || return 0
	if grep -qF "$state" "$root/proc/mounts" 2>/dev/null; then
		say "${dir#"$root"} stays: something is mounted below it (grep $state /proc/mounts)"
	elif "$unknown"; then
		say "${dir#"$root"} stays: whether there are restored containers is not known"
	elif ((${#restored[@]} > 0)); then
		say "${dir#"$root"} stays: there are restored containers, whose criu.conf is in it"
	elif ! "$purge"; then
		say "${dir#"$root"} stays: remove it, or run uninstall.sh --purge before"
	else
		step "remove ${dir#"$root"}" rm -rf --one-file-system "$dir" "$root/run/containerd/$state"
	fi
}

manifest=$(manifest)
if [ ! -f "$manifest" ]; then
	say "nothing is installed at $prefix: $manifest is not there"
	exit 0
fi
unknown=false
if "$live"; then
	[ "$(id -u)" = 0 ] || die "it has to be run as root"
	if ctr version >/dev/null 2>&1; then
		examine
		((${#waiting[@]} == 0)) || die "containers were created from a checkpoint and not started, and could not be once the plugin is gone: ${waiting[*]}" \
			"remedy: start or remove them (crictl ps -a --state Created; crictl rm ID), or their pods"
		((${#restored[@]} == 0)) || say "restored containers run on, without statistics and OOMKilled: ${restored[*]}"
	else
		say "containerd does not answer"
		unknown=true
	fi
fi

# The programs stay until the node's own containerd runs.
read_manifest "$manifest"
step "remove $drop_in" rm -f "$root$drop_in"
if "$live" && has_systemd && "$restart"; then
	step "restart containerd as it was before: pods run on" systemctl daemon-reload
	"$dry_run" || systemctl restart "$unit" || die "containerd does not come up without $drop_in" \
		"remedy: see \"journalctl -u containerd\"; the programs of cri-restore are still there: run install.sh again"
fi
# Without its shim and runc beside it, it could start nothing.
if "$live" && ! "$dry_run" && ctr version 2>/dev/null | sed -n '/^Server:/,$p' | grep -qF '+cri-restore.'; then
	die "containerd of cri-restore still runs" "remedy: start the node's own containerd in its place, then run uninstall.sh again"
fi
data
for path in "${!was_installed[@]}"; do
	[ "$path" = "$drop_in" ] || leave "$path"
done
"$dry_run" || rm -f "$manifest"
empty
if "$dry_run"; then say "nothing was changed"; else say "removed"; fi
