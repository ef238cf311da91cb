# shellcheck shell=bash disable=SC2030,SC2031,SC2034,SC2154
# Sourced by contrib/deps.sh: finds, or installs, a CRIU that works here.
# Uses say, die, tmp, trial, have, os_field, os_name, apt_get, install_packages of
# its caller.
#
# A criu on PATH that is new enough and works is used as it is. Else the
# system's package, if that is new enough. Else, on Debian, the package of a
# later release with every library and the loader it wants, unpacked into a
# folder of its own: the system's apt sources, dpkg database and C library
# stay as they are.

# The first release that restores on current kernels: older ones fail with
# "vdso: Unexpected rt vDSO area bounds".
criu_min=4.1
# The newest first: on Linux 6.16 and later, 4.1.1 cannot dump a process that has
# a TCP socket ("sockets: Can't get 1:16 opt").
criu_suites=(forky trixie)

# Where the last verified CRIU is written down.
criu_stamp=$CRI_RESTORE_PREFIX/criu.verified

criu_path='' criu_version='' criu_reason=''

# criu_verified finds a working CRIU and sets criu_path and criu_version. A CRIU
# that was verified before, on this kernel, and has not changed, is not tried again.
criu_verified() {
	local found
	# The system's goes first: ours is only there because it was not good enough.
	if found=$(PATH=$(path_without "$CRI_RESTORE_PREFIX/bin") && command -v criu) && criu_usable "$found"; then
		rm -f "$CRI_RESTORE_PREFIX/bin/criu" 2>/dev/null || true # env.sh puts that one first
		return
	fi
	found=$CRI_RESTORE_PREFIX/bin/criu
	[ -x "$found" ] && criu_usable "$found"
}

# criu_usable tells whether a binary is new enough and works; if not,
# criu_reason says why.
criu_usable() {
	local path=$1 version stamp
	version=$("$path" --version 2>/dev/null | sed -n 's/^Version: *//p') || true
	[ -n "$version" ] || { criu_reason="$path: \"criu --version\" fails" && return 1; }
	version_at_least "$version" "$criu_min" || { criu_reason="$path: version $version is older than $criu_min" && return 1; }

	stamp=$(criu_fingerprint "$path" "$version")
	if [ "$stamp" != "$(cat "$criu_stamp" 2>/dev/null)" ]; then
		[ "$(id -u)" = 0 ] || { criu_reason="$path: version $version, but only root can check that it works" && return 1; }
		criu_works "$path" || return 1
		mkdir -p "$CRI_RESTORE_PREFIX"
		printf '%s\n' "$stamp" >"$criu_stamp"
	fi
	criu_path=$path criu_version=$version
}

# criu_fingerprint names what a verification holds for: the kernel, the command,
# and, where the command is a script of ours, what it starts.
criu_fingerprint() {
	local path files tree
	path=$(readlink -f "$1")
	files=("$path")
	tree=$(dirname "$(dirname "$path")")
	if [ -x "$tree/usr/sbin/criu" ] && [ "$tree" != / ]; then files+=("$tree"/usr/sbin/criu "$tree"/usr/lib/*/*.so*); fi
	printf 'trial=listener\npath=%s\nversion=%s\nkernel=%s\nsha256=%s' "$path" "$2" "$(uname -r)" \
		"$(cat "${files[@]}" | sha256sum | cut -d' ' -f1)"
}

# criu_works runs criu's own check, then dumps and restores a process that listens
# on a TCP port: the check alone passes on machines where a dump fails.
criu_works() {
	local path=$1 dir=$tmp/trial out failed=''
	rm -rf "$dir"
	mkdir "$dir"
	if ! out=$("$path" check 2>&1); then
		criu_reason="$path: \"criu check\" fails: $(criu_errors <<<"$out")"
		return 1
	fi
	# No message of bash that the process was killed: that is what a dump does.
	criu_trial "$path" "$dir" 2>/dev/null
	[ -z "$failed" ] || criu_reason="$path: $failed of a process fails: $(criu_errors <"$dir/$failed.log")"
	[ -z "$failed" ]
}

# criu_trial dumps and restores a process, and sets failed to the step that failed.
criu_trial() {
	local path=$1 dir=$2
	# In a session of its own and with no descriptor of ours: make's job server and
	# our lock are not CRIU's to dump. The subshell execs, so that $! is the process.
	(
		for fd in /proc/self/fd/*; do
			fd=${fd##*/}
			((fd <= 2)) || eval "exec $fd>&-"
		done
		cd / && exec setsid busybox httpd -f -p 127.0.0.1:0 -h "$dir" </dev/null >/dev/null 2>&1
	) &
	trial=$!
	# Before it is busybox it still has our session and our output.
	until trial_runs; do kill -0 "$trial" || break; done

	failed=dump
	if "$path" dump --tree "$trial" --images-dir "$dir" --log-file dump.log; then
		wait "$trial" || true # restore wants the pid back
		failed=restore
		if "$path" restore --restore-detached --images-dir "$dir" --log-file restore.log && trial_runs; then
			failed=''
		fi
	fi
	kill -KILL "$trial" || true
	wait "$trial" || true
	trial=''
}

trial_runs() {
	[ "$(cat "/proc/$trial/comm" 2>/dev/null)" = busybox ] && find "/proc/$trial/fd" -lname 'socket:*' 2>/dev/null | grep -q .
}

# criu_errors prints the last error lines of a CRIU log in one line.
criu_errors() { { grep -E 'Error|Failed|not|cannot' || true; } | tail -n 3 | tr '\n' ' '; }

version_at_least() { [ "$(printf '%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]; }

path_without() { printf '%s' ":$PATH:" | sed "s|:$1:|:|g; s|^:||; s|:\$||"; }

# install_criu installs one and sets criu_path and criu_version.
install_criu() {
	local tried=() suite candidate
	criu_verified && return # it may only have lacked what was installed since
	[ -z "$criu_reason" ] || tried+=("$criu_reason")

	candidate=$(criu_candidate)
	if [ -z "$candidate" ] && ! have criu; then # perhaps only because the lists were never fetched
		apt_get update || true
		candidate=$(criu_candidate)
	fi
	if [ -z "$candidate" ]; then
		tried+=("$(os_name) has no package criu")
	elif ! version_at_least "$candidate" "$criu_min"; then
		tried+=("$(os_name) has criu $candidate, older than $criu_min")
	elif ! dpkg-query -W -f '${Status}' criu 2>/dev/null | grep -q ' installed$'; then
		install_packages criu
		hash -r
		criu_verified && return
		tried+=("$criu_reason")
	fi

	if [ "$(os_field ID)" = debian ]; then
		for suite in "${criu_suites[@]}"; do
			[ "$suite" != "$(os_field VERSION_CODENAME)" ] || continue
			unpack_criu "$suite" && return
			tried+=("$suite: $criu_reason")
		done
	fi
	die "no CRIU $criu_min or newer that works here:" "${tried[@]/#/  }" \
		"remedy: install CRIU by hand (https://criu.org/Installation; on Ubuntu from ppa:criu/ppa), so that" \
		"  \"criu check\" passes as root, put it on PATH, then run contrib/deps.sh again"
}

criu_candidate() {
	LC_ALL=C apt-cache policy criu 2>/dev/null | sed -n 's/^ *Candidate: *//p' | grep -v '^(none)$' | sed 's/^[0-9]*://' || true
}

# unpack_criu takes criu and all it depends on from another suite of the machine's
# own Debian mirror. apt gets a configuration, a state and an empty dpkg database
# of its own, so it resolves the libraries down to the C library and records nothing.
unpack_criu() {
	local suite=$1 uri apt=$tmp/apt out tree version deb loader
	uri=$(debian_uri)
	if [ -z "$uri" ]; then # apt knows an archive's origin only once it has its lists
		apt_get update || true
		uri=$(debian_uri)
	fi
	if [ -z "$uri" ]; then
		criu_reason="the system's apt sources have no entry for Debian's own archive, or it cannot be reached"
		return 1
	fi
	say "unpacking criu of $suite from $uri: the system's packages stay as they are"
	rm -rf "$apt"
	chmod 755 "$tmp" # apt downloads as the user _apt
	if ! fetch_criu "$apt" "$uri" "$suite"; then
		criu_reason="cannot fetch it: $(grep -E '^(E|W|Err)' <<<"$out" | tail -n 3 | tr '\n' ' ')"
		[[ $out != *NO_PUBKEY* ]] || criu_reason+="(the package debian-archive-keyring is too old for $suite)"
		return 1
	fi
	deb=$(compgen -G "$apt/cache/archives/criu_*.deb")
	version=$(dpkg-deb -f "$deb" Version)
	tree=$CRI_RESTORE_PREFIX/criu/${suite}_${version//[^0-9A-Za-z.+~-]/_}
	rm -rf "$tree"
	mkdir -p "$tree/bin" "$tree/loader"
	for deb in "$apt"/cache/archives/*.deb; do
		dpkg-deb -x "$deb" "$tree" && continue
		rm -rf "$tree"
		criu_reason="cannot unpack ${deb##*/} into $tree"
		return 1
	done
	rm -rf "${tree:?}"/{usr/share,etc,var}

	loader=$(compgen -G "$tree/usr/lib/*/ld-linux*.so.*")
	criu_command "$tree" "$loader" >"$tree/bin/criu"
	chmod 755 "$tree/bin/criu"
	# The kernel names a process after the file it starts: ps and pgrep then show
	# "criu", not "ld-linux-x86-64".
	ln -s "$loader" "$tree/loader/criu"

	if ! criu_closed "$tree" "$loader" || ! criu_usable "$tree/bin/criu"; then
		rm -rf "$tree"
		return 1
	fi
	mkdir -p "$CRI_RESTORE_PREFIX/bin"
	ln -sfn "$tree/bin/criu" "$CRI_RESTORE_PREFIX/bin/.criu.new"
	mv -T "$CRI_RESTORE_PREFIX/bin/.criu.new" "$CRI_RESTORE_PREFIX/bin/criu"
	find "$CRI_RESTORE_PREFIX/criu" -mindepth 1 -maxdepth 1 ! -path "$tree" -exec rm -rf {} +
	hash -r
	criu_usable "$CRI_RESTORE_PREFIX/bin/criu"
}

# fetch_criu is private_apt with its output in out. Debian writes the index of testing anew every few hours, a mirror of a
# moment keeps it and it expires: then that date is no reason, as the packages are what the signed index says.
fetch_criu() {
	out=$(private_apt "$@" 2>&1) && return
	[[ $out == *' is expired '* ]] || return 1
	say "the index of $3 at $2 has expired: taking it for this one package, with its signature checked"
	rm -rf "$1"
	out=$(private_apt "$@" 'Acquire::Check-Valid-Until "false";' 2>&1)
}

# criu_command prints the criu command. The libraries are given to the loader and
# not in LD_LIBRARY_PATH, which CRIU's children (iptables, ip, sh) would inherit:
# they are the system's and want the system's libraries.
criu_command() {
	cat <<-SCRIPT
		#!/bin/sh
		# Written by contrib/deps.sh of cri-restore: Debian's criu with its own libraries.
		exec "$1/loader/criu" --inhibit-cache --library-path "$(dirname "$2")" --argv0 criu "$1/usr/sbin/criu" "\$@"
	SCRIPT
}

# criu_closed tells whether every library comes from the tree: one that is missing
# would be taken from the system, and mixes badly with another C library.
criu_closed() {
	local list
	list=$("$2" --inhibit-cache --library-path "$(dirname "$2")" --list "$1/usr/sbin/criu" 2>&1) &&
		! grep -E '=> (not found|/)' <<<"$list" | grep -vF "=> $1/" >/dev/null && return
	criu_reason="its libraries are not complete: $(grep -vF "=> $1/" <<<"$list" | tr -s '\t\n' ' ')"
	return 1
}

# debian_uri prints the mirror of Debian's main archive that the machine uses. apt
# itself reads the sources, in either format, and tells Debian's archive by the
# signed Origin, not by host name.
debian_uri() {
	local codename
	codename=$(os_field VERSION_CODENAME)
	# shellcheck disable=SC2016 # apt expands these
	local format='$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)'
	apt-get indextargets --format "$format" 'Created-By: Packages' 2>/dev/null |
		sed -n "s#^Debian|Debian|main|$codename|##p" | head -n 1
}

# private_apt downloads criu of a suite, and all it depends on, into
# DIR/cache/archives, without reading or writing the system's apt state. How the
# machine reaches its mirror (proxy, credentials, keyrings) stays the same. A fourth
# argument is a line of configuration more.
private_apt() {
	local dir=$1 uri=$2 suite=$3 more=${4:-} keyring=/usr/share/keyrings/debian-archive-keyring.gpg signed=''
	mkdir -p "$dir"/{sources,none,state/lists/partial,cache/archives/partial}
	: >"$dir/status"
	[ ! -r "$keyring" ] || signed="[signed-by=$keyring]"
	echo "deb $signed $uri $suite main" >"$dir/sources/$suite.list"
	{
		apt-config dump | grep -E '^Acquire::(https?|Retries|Check-|ForceIPv)' || true
		cat <<-CONF
			APT::Architecture "$(dpkg --print-architecture)";
			APT::Architectures { "$(dpkg --print-architecture)"; };
			APT::Install-Recommends "false";
			Acquire::Languages "none";
			Dir::Etc::main "$dir/none/apt.conf";
			Dir::Etc::parts "$dir/none";
			Dir::Etc::sourcelist "$dir/none/sources.list";
			Dir::Etc::sourceparts "$dir/sources";
			Dir::Etc::preferences "$dir/none/preferences";
			Dir::Etc::preferencesparts "$dir/none";
			Dir::State "$dir/state";
			Dir::State::status "$dir/status";
			Dir::Cache "$dir/cache";
			$more
		CONF
	} >"$dir/apt.conf"
	APT_CONFIG="$dir/apt.conf" apt-get -q update &&
		APT_CONFIG="$dir/apt.conf" apt-get -q -y --download-only install criu
}
