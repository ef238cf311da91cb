#!/usr/bin/env bash
# Tests the product on a node as people have it: a guest with Debian 13, systemd as PID 1, cgroup v2 alone and AppArmor.
# The guest is made once and kept, by what it is made of; every run starts on a fresh copy of its disk. The product is
# installed there by docs/install.md.
#
#   contrib/vm/test.sh          as root, after make deps build build-stock dist: the stages of SUITE
#
# SUITE is one or more of
#   smoke    what is special on such a node, a line a check
#   demo     contrib/checkpoint-restore-cri-test.sh
#   part     the integration tests that touch cgroups, mounts, freezer, LSM, OOM, statistics and checkpoints, with
#            containerd's cgroupfs driver and with that of systemd
#   all      smoke, demo, and all integration tests with both drivers
# By default it is smoke, demo and part. At the end the product is taken away again, by docs/install.md. TEST=REGEXP chooses among the integration tests, DRIVERS="cgroupfs systemd" the drivers.
# CRI_RESTORE_CACHE (/var/cache/cri-restore) has the guest's disk: 2 GiB. VM_PROCESSORS, VM_MEMORY, VM_BOOT_TIMEOUT: see
# machine.sh. VM_KEEP=1 leaves the guest and its folder, and says how to log in. TEST_RESULTS=DIR takes the events of all tests.
#
# Without KVM the guest is emulated, which takes about ten times as long.
set -euo pipefail
export LC_ALL=C

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
here=$repo/contrib/vm
export CRI_RESTORE_REPO=$repo
# shellcheck source=contrib/env.sh
. "$repo/contrib/env.sh"
# shellcheck source=contrib/deps/system.sh
. "$repo/contrib/deps/system.sh"
# shellcheck source=contrib/deps/criu.sh
. "$repo/contrib/deps/criu.sh"
# shellcheck source=contrib/vm/image.sh
. "$here/image.sh"
# shellcheck source=contrib/vm/machine.sh
. "$here/machine.sh"

suite=trixie
cache=${CRI_RESTORE_CACHE:-/var/cache/cri-restore}
read -ra stages <<<"${SUITE:-smoke demo part}"
read -ra drivers <<<"${DRIVERS:-cgroupfs systemd}"
work='' failed=0

say() { printf 'vm: %s\n' "$*"; }
die() {
	printf 'vm: %s\n' "$@" >&2
	exit 1
}

# shellcheck disable=SC2317 # called by trap
cleanup() {
	local status=$?
	if [ -n "${VM_KEEP:-}" ] && [ -n "$qemu_pid" ]; then
		say "the guest stays: ssh -i $image/key -p $port root@127.0.0.1; end it with: kill $qemu_pid; rm -rf $work"
		disown "$qemu_pid"
		return
	fi
	stop_guest
	if ((status == 0)) || [ ! -s "$work/console.log" ]; then
		[ -z "$work" ] || rm -rf --one-file-system "$work"
	else
		rm -rf --one-file-system "$work/root" "$work"/*.qcow2 "$work"/*.tar
		say "the logs are in $work"
	fi
}
trap cleanup EXIT

# payload makes the tar that the guest reads: what git has of the tree, what was built, and the CRIU of make deps.
payload() {
	local file
	for file in containerd containerd-stock dist; do
		[ -e "$repo/bin/$file" ] || die "bin/$file is missing: run make deps build build-stock dist"
	done
	mkdir -p "$repo/bin/test"
	(cd "$repo" && go test -c -o bin/test/integration.test ./integration &&
		CGO_ENABLED=0 go build -buildvcs=false -o bin/test/workload ./integration/workload) || die "the tests do not build"
	git -C "$repo" ls-files -z | tar -C "$repo" --null --no-recursion -T - --ignore-failed-read -cf "$work/payload.tar"
	tar -C "$repo" --exclude='bin/v*' --exclude=bin/race --exclude='bin/kube*' --exclude=bin/etcd --exclude='bin/*.json' \
		--exclude=bin/dist --exclude=bin/arm64 -rf "$work/payload.tar" bin
	# shellcheck disable=SC2012 # the names are ours
	tar -C "$repo" -rf "$work/payload.tar" "$(cd "$repo" && ls -t bin/dist/cri-restore-*-linux-*.tar.gz | head -n 1)"
	if [ -d "$CRI_RESTORE_PREFIX/criu" ]; then
		tar -C / -rf "$work/payload.tar" --transform 's,^,criu/,SH' "${CRI_RESTORE_PREFIX#/}/criu" "${CRI_RESTORE_PREFIX#/}/bin/criu"
	fi
}

# stage NAME COMMAND...: in the guest. What failed is shown, the events are kept.
stage() {
	local name=$1 began=$SECONDS status=0
	shift
	guest "cd /root/cri-restore && $*" >"$work/$name.log" 2>&1 || status=$?
	tr -d '\026' <"$work/$name.log" | grep -aE '^\s*--- (FAIL|SKIP)|^    (got|want)  ?|^\s+\S+_test.go:[0-9]+: |^(FAIL|panic:)' || true
	((status == 0)) || tail -n 20 "$work/$name.log"
	if [ -n "${TEST_RESULTS:-}" ]; then
		go tool test2json -p "test-vm/$name" <"$work/$name.log" >"$TEST_RESULTS/test-vm-$name.json"
	fi
	say "$name: $(grep -acE '^\s*\S?\s*--- PASS' "$work/$name.log") passed, $(grep -acE '^\s*\S?\s*--- FAIL' "$work/$name.log") failed, status $status, $((SECONDS - began)) s"
	((status == 0)) || failed=1
}

suite_stage() {
	local driver
	for driver in "${drivers[@]}"; do
		stage "$1-$driver" "CRI_RESTORE_CGROUP_DRIVER=$driver TEST='${TEST:-}' contrib/vm/guest/suite.sh $1"
	done
}

main() {
	local stage
	[ "$(id -u)" = 0 ] || die "root is needed: run it as root"
	for stage in "${stages[@]}"; do
		case $stage in smoke | demo | part | all) ;; *) die "SUITE=$stage is none of smoke, demo, part, all" ;; esac
	done
	work=$(mktemp -d "${TMPDIR:-/tmp}/cri-restore-vm.XXXXXX")
	host_deps
	image
	payload
	boot "$work/payload.tar"
	guest 'mkdir -p /root/cri-restore && tar -C /root/cri-restore -xf /dev/vdb --no-same-owner &&
		{ [ ! -d /root/cri-restore/criu ] || cp -a /root/cri-restore/criu/. /; }' || die "the guest cannot read the payload"
	stage install contrib/vm/guest/node.sh '&&' contrib/vm/guest/follow.sh install
	((failed == 0)) || die "the product cannot be installed by docs/install.md: $(tail -n 5 "$work/install.log")"
	for stage in "${stages[@]}"; do
		case $stage in
		smoke) stage smoke contrib/vm/guest/smoke.sh ;;
		demo) stage demo . contrib/env.sh '&&' contrib/checkpoint-restore-cri-test.sh ;;
		part) suite_stage part ;;
		all)
			stage smoke contrib/vm/guest/smoke.sh
			stage demo . contrib/env.sh '&&' contrib/checkpoint-restore-cri-test.sh
			suite_stage all
			;;
		esac
	done
	stage back contrib/vm/guest/follow.sh back
	exit "$failed"
}

main "$@"
