#!/usr/bin/env bash
# Installs what the build, the demo and the tests need and the system lacks, and
# touches nothing that is there. Run again, it finds everything and says so.
#
#   contrib/deps.sh          as root: install what is missing
#   contrib/deps.sh --check  say what is missing, install nothing
#
# CRI_RESTORE_PREFIX (default /opt/cri-restore) takes what cannot come from the
# system's packages: on Debian 12 that is CRIU, see contrib/deps/criu.sh.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
export CRI_RESTORE_REPO=$repo
# shellcheck source=contrib/env.sh
. "$repo/contrib/env.sh"
# shellcheck source=contrib/deps/system.sh
. "$repo/contrib/deps/system.sh"
# shellcheck source=contrib/deps/criu.sh
. "$repo/contrib/deps/criu.sh"
# shellcheck source=contrib/deps/podman.sh
. "$repo/contrib/deps/podman.sh"

say() { printf 'deps: %s\n' "$*"; }
die() {
	printf 'deps: %s\n' "$@" >&2
	exit 1
}

# report_missing prints what is missing and how to get it, one line each, and
# leaves with an error.
report_missing() {
	local why=$1 item
	{
		say "$why"
		for item in "${missing[@]}"; do say "  missing: $(describe "$item")$(engine_describe "$item")"; done
		if supported; then
			say "remedy, as root:"
			((${#packages[@]} == 0)) || say "  apt-get install --no-install-recommends ${packages[*]}"
			say "  $repo/contrib/deps.sh"
		else
			say "remedy: install the packages of your distribution that bring the above," \
				"then run $repo/contrib/deps.sh again"
		fi
	} >&2
	exit 1
}

tmp=$(mktemp -d)
trial='' # the process that a CRIU is being tried on
cleanup() {
	[ -z "$trial" ] || kill -KILL "$trial" 2>/dev/null || true
	rm -rf "$tmp"
}
trap cleanup EXIT

main() {
	local check_only=false item package
	case "${1:-}" in
	"") ;;
	--check) check_only=true ;;
	*) die "unknown argument \"$1\": usage: contrib/deps.sh [--check]" ;;
	esac

	check_go
	missing=() packages=()
	for item in "${items[@]}"; do
		present "$item" && continue
		missing+=("$item")
		package=$(package_of "$item")
		[ -z "$package" ] || packages+=("$package")
	done
	for item in "${engines[@]}"; do
		engine_present "$item" || missing+=("$item")
	done
	criu_verified || missing+=(criu)

	if ((${#missing[@]} == 0)); then
		say "all there: CRIU $criu_version ($criu_path), CNI plugins in $(cni_dir)"
		return
	fi
	supported || report_missing "$(os_name) is not supported: only Debian, Ubuntu and their kin with apt are"
	! $check_only || report_missing "not everything is there"
	[ "$(id -u)" = 0 ] || report_missing "installing needs root, this is uid $(id -u)"

	# Two runs at the same time must not unpack over each other.
	mkdir -p "$CRI_RESTORE_PREFIX"
	exec {lock}>"$CRI_RESTORE_PREFIX/.lock"
	flock "$lock"

	if ((${#packages[@]} > 0)); then install_packages "${packages[@]}"; fi
	install_engines
	for item in "${missing[@]}"; do
		case $item in
		busybox) present busybox || unpack_busybox ;;
		criu) install_criu ;;
		esac
		[ "$item" = criu ] || engine_present "$item" || present "$item" || die "$(describe "$item"): still missing after the installation" \
			"remedy: look at the output of apt above, then run contrib/deps.sh again"
	done
	say "done: CRIU $criu_version ($criu_path), CNI plugins in $(cni_dir)"
}

main "$@"
