# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by contrib/deps.sh: the container engines whose checkpoints the tests
# restore, and that restore ours. Uses say, die, have, apt_get of its caller.

# checkpointctl calls buildah to make an image.
engines=(podman buildah)

engine_present() {
	case $1 in
	podman) have podman && have conmon && podman --version >/dev/null 2>&1 ;;
	buildah) have buildah && buildah --version >/dev/null 2>&1 ;;
	esac
}

engine_describe() {
	case $1 in
	podman) echo "podman with conmon (tests of checkpoints that Podman makes and restores)" ;;
	buildah) echo "buildah (tests of the images that checkpointctl builds)" ;;
	esac
}

# install_engines installs what of them is missing from the system's packages. Debian's
# podman depends on libsubid4, and apt would upgrade all packages of that source,
# login and passwd among them: what is there stays as it is.
install_engines() {
	local engine wanted=() new out source=(-o APT::Get::Upgrade-By-Source-Package=false)
	for engine in "${engines[@]}"; do
		engine_present "$engine" || wanted+=("$engine")
	done
	((${#wanted[@]} > 0)) || return 0
	if ! new=$(engine_packages "${wanted[@]}"); then
		say "refreshing the package lists"
		apt_get update || die "apt-get update failed: the package lists cannot be fetched" \
			"remedy: repair the system's package sources (see the lines above), then run contrib/deps.sh again"
		new=$(engine_packages "${wanted[@]}") || die "no packages ${wanted[*]} in the system's package sources" \
			"remedy: install them by hand, so that \"podman --version\" and \"buildah --version\" work, then run contrib/deps.sh again"
	fi
	say "installing ${wanted[*]} for the tests: $new"
	if ! out=$(apt_get "${source[@]}" install -y --no-install-recommends --no-remove "${wanted[@]}" 2>&1); then
		printf '%s\n' "$out" >&2
		die "apt-get could not install ${wanted[*]}: see the lines above" \
			"remedy: make \"apt-get install ${wanted[*]}\" work, then run contrib/deps.sh again"
	fi
	hash -r
	for engine in "${wanted[@]}"; do
		engine_present "$engine" || die "$(engine_describe "$engine"): still missing after the installation"
	done
}

# engine_packages prints the packages that apt would install.
engine_packages() {
	local plan
	plan=$(LC_ALL=C apt-get -s -o APT::Get::Upgrade-By-Source-Package=false \
		install --no-install-recommends --no-remove "$@" 2>/dev/null) || return
	sed -n 's/^Inst \([^ ]*\).*/\1/p' <<<"$plan" | sort | tr '\n' ' '
}
