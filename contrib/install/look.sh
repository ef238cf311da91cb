# shellcheck shell=bash disable=SC2154
# Sourced by install.sh: looks at the node before anything is changed. Each look says what it has found; what does not
# fit is collected, so that all of it is said at once.

criu_min=4.1
runc_needed='1.4.4 or newer, of 1.5 1.5.3 or newer' # no link in a root file system leads it elsewhere on the node
space_spare=$((512 << 10)) # KiB beyond the programs

problems=()
problem() { problems+=("$1" "  remedy: $2"); }

look_at_node() {
	[ "$(id -u)" = 0 ] || die "it has to be run as root"
	look_at_machine
	look_at_containerd
	look_at_config
	look_at_runc
	look_at_criu
	look_at_cgroup
	look_at_space
	((${#problems[@]} > 0)) || return 0
	complain "${problems[@]}"
	"$dry_run" || "$force" || die "nothing was changed"
}

# look_at_machine: the programs are for this machine, and start with its C library.
look_at_machine() {
	local machine file out
	machine=$(uname -m)
	case $machine in
	x86_64) machine=amd64 ;;
	aarch64) machine=arm64 ;;
	esac
	if [ "$machine" != "${packed[arch]}" ]; then
		problem "the node is $machine, and these programs are for ${packed[arch]}" "take the archive for $machine"
		return
	fi
	for file in containerd runc; do
		out=$("$here/bin/$file" --version 2>&1 >/dev/null) ||
			problem "$file does not start here: $(head -n 1 <<<"$out")" "build it on this distribution, or on an older one"
	done
}

# look_at_containerd: the unit that is going to start another program, and which version it starts now.
look_at_containerd() {
	local line binary version theirs base word
	line=$(command_line)
	if [ -z "$line" ]; then
		problem "there is no unit $unit" "install containerd first, with its unit and configuration"
		return
	fi
	binary=${line%% *}
	binary=${binary##[-+@:!]}
	case $line in *' '*) arguments=${line#* } ;; esac
	version=$("$root$binary" --version 2>/dev/null | sed -n 's/^[^ ]* [^ ]* v\{0,1\}\([0-9][^ ]*\).*/\1/p') || true
	say "containerd ${version:-of an unknown version} ($binary${arguments:+ $arguments})"
	# Ours says what it is made of: v2.4.2+cri-restore.VERSION.
	theirs=${version%%+*}
	base=${packed[containerd]}
	base=${base#v} base=${base%%+*}
	if [ -z "$version" ]; then
		problem "$binary does not say its version" "see whether \"$binary --version\" works"
	elif ! at_least "$base" "$theirs"; then
		problem "the node has containerd $theirs, newer than $base: its state may have a form that $base does not know" \
			"wait for a cri-restore with containerd $theirs, or build it"
	elif ! at_least "$theirs" 2.0; then
		problem "containerd $theirs is older than 2.0: installing would upgrade it to $base" \
			"upgrade to containerd 2 first, and see that the node works"
	fi
	for word in $arguments; do
		case $word in
		*[!A-Za-z0-9/._+=:,@-]*) problem "the unit starts containerd with $arguments, which cannot be repeated" \
			"write $drop_in by hand" ;;
		esac
	done
}

# config_file prints containerd's main configuration.
config_file() {
	local word next=false
	for word in $arguments; do
		if "$next"; then echo "$word" && return; fi
		case $word in
		--config=* | -c=*) echo "${word#*=}" && return ;;
		--config | -c) next=true ;;
		esac
	done
	echo "$main_config"
}

# look_at_config: whether containerd is going to read the drop-in file.
look_at_config() {
	local file import
	file=$(config_file)
	if [ ! -e "$root$file" ]; then
		[ "$file" = "$main_config" ] || problem "containerd's configuration $file is not there" "make it, or change the unit"
		return
	fi
	# Before the first table; the list may have several lines.
	import=$(sed '/^[[:space:]]*\[[^]]*\][[:space:]]*$/,$d; s/#.*//' "$root$file" | tr -d '\n' | grep -o 'imports[[:space:]]*=[[:space:]]*\[[^]]*\]') || true
	[[ $import == *"${node_config%/*}/"* ]] || problem "$file does not import $node_config: containerd would not read it" \
		"add this line before its first table, or to the list that is there: imports = [\"${node_config%/*}/*.toml\"]"
}

# runc_usable says whether a version of runc is one of those. The plugin has the same rule (internal/runc).
runc_usable() {
	[[ $1 =~ ^v?([0-9]+)\.([0-9]+)\.([0-9]+)(-rc\.?([0-9]+))? ]] || return 1
	local major=${BASH_REMATCH[1]} minor=${BASH_REMATCH[2]} patch=${BASH_REMATCH[3]} candidate=${BASH_REMATCH[5]:-} first
	((major == 1)) || return $((major < 1))
	case $minor in
	4) first=4 ;;
	5) first=3 ;;
	6) return $((patch == 0 && ${candidate:-2} < 2)) ;;
	*) return $((minor < 4)) ;;
	esac
	# A candidate comes before its release.
	((patch > first)) || { ((patch == first)) && [ -z "$candidate" ]; }
}

# look_at_runc: the one that is installed, and those that containerd's configuration names.
look_at_runc() {
	local file name version
	for file in "$(config_file)" "$node_config"; do
		[ -f "$root$file" ] || continue
		while read -r name; do
			version=$("$root$name" --version 2>/dev/null | sed -n 's/^runc version //p') || true
			say "runc ${version:-of an unknown version} ($name, in $file)"
			[ -z "$version" ] || runc_usable "$version" ||
				problem "$name is runc $version, $file wants it, and $runc_needed is needed" \
					"take BinaryName out of $file, so that $prefix/bin/runc is used, or install a newer one there"
		done < <(sed -n "s/^[[:space:]]*BinaryName[[:space:]]*=[[:space:]]*[\"']\(\/[^\"']*\)[\"'].*/\1/p" "$root$file" | sort -u)
	done
	runc_usable "${packed[runc]}" || problem "runc ${packed[runc]} is packed, and $runc_needed is needed" "take a newer archive"
}

# look_at_criu: the one that runc is going to find with the unit's PATH.
look_at_criu() {
	local path dir version out
	for dir in "$root$prefix/bin" "$root"/usr/local/sbin "$root"/usr/local/bin "$root"/usr/sbin "$root"/usr/bin "$root"/sbin "$root"/bin; do
		[ -x "$dir/criu" ] && path=$dir/criu && break
	done
	if [ -z "${path:-}" ]; then
		problem "there is no CRIU: checkpoints could be neither taken nor restored" "$(criu_remedy)"
		return
	fi
	version=$("$path" --version 2>/dev/null | sed -n 's/^Version: *//p') || true
	say "CRIU ${version:-of an unknown version} (${path#"$root"})"
	if [ -z "$version" ] || ! at_least "$version" "$criu_min"; then
		problem "CRIU ${version:-of an unknown version} is too old: $criu_min is needed" "$(criu_remedy)"
	elif ! out=$("$path" check 2>&1); then
		problem "\"criu check\" fails: $(grep -E 'Error|fail' <<<"$out" | tail -n 1)" "see troubleshooting.md of the project"
	fi
}

criu_remedy() {
	local id version
	id=$(sed -n 's/^ID=//p' "$root/etc/os-release" 2>/dev/null | tr -d '"') || true
	version=$(sed -n 's/^VERSION_ID=//p' "$root/etc/os-release" 2>/dev/null | tr -d '"') || true
	case $id-$version in
	debian-12) echo "the project's contrib/deps.sh unpacks one into $prefix" ;;
	ubuntu-24.04) echo "add-apt-repository ppa:criu/ppa && apt-get install criu" ;;
	debian-* | ubuntu-*) echo "apt-get install criu" ;;
	*) echo "install CRIU $criu_min or newer (https://criu.org/Installation)" ;;
	esac
}

look_at_cgroup() {
	local kind
	kind=$(stat -f -c %T "$root/sys/fs/cgroup" 2>/dev/null) || true
	case $kind in
	cgroup2fs) say "cgroup v2" ;;
	tmpfs) say "cgroup v1: the kubelet needs failCgroupV1: false from 1.35 on" ;;
	*) problem "/sys/fs/cgroup is ${kind:-not there}" "mount the cgroup file system, as systemd does" ;;
	esac
}

# look_at_space: for the programs beside those that are there, and for a checkpoint that is unpacked.
look_at_space() {
	local dir=$root$prefix need free
	while [ ! -d "$dir" ]; do dir=$(dirname "$dir"); done
	need=$(($(du -sk "$here/bin" | cut -f1) + space_spare))
	free=$(df -Pk "$dir" | awk 'NR == 2 { print $4 }')
	say "$((free >> 10)) MiB free at ${dir#"$root"}"
	((free >= need)) || problem "there are $((free >> 10)) MiB free at ${dir#"$root"}, and $((need >> 10)) are needed" "make room"
}
