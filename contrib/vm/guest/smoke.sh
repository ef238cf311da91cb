#!/usr/bin/env bash
# What is special on a node with systemd, cgroup v2 and AppArmor, a line a check. After node.sh and install.sh.
# shellcheck disable=SC2154,SC2016 # set by lib.sh; for the container's shell and jq
set -uo pipefail
# shellcheck source=contrib/vm/guest/lib.sh
. "$(dirname "$0")/lib.sh"

workload='.mounts = [{host_path: "/root/cri-restore/bin/test", container_path: "/wl", readonly: true}]'
security() { echo ".linux.security_context += $1"; }
apparmor() { security "{apparmor: $1}"; }
node_options() { awk '$5 == "/sys/fs/cgroup" { print $NF; exit }' /proc/self/mountinfo; }
scopes() { systemctl list-units --all --no-legend "cri-containerd-${1:-*}" | wc -l; }
exec_of() { crictl exec "$id" "$@" 2>&1; }
processes_apart() { # how many processes of the container are not in its first one's cgroup namespace
	local p first its
	first=$(namespace_of "$(pid)")
	for p in $(<"$(cgroup_of "$id")/cgroup.procs"); do
		its=$(namespace_of "$p" 2>/dev/null) || continue # a sleep that has ended
		[ "$its" = "$first" ] || echo "$p"
	done | wc -l
}
is_apart() { [ "$(namespace_of "$(pid)")" != "$(namespace_of 1)" ] && echo own || echo "the node's"; }

remove_all
rm -f "$work"/*.tar
options=$(node_options)
succeeds 'image is pulled' crictl pull $busybox

# An ordinary pod and its cgroup.
pod a && run c $busybox "$counter" >/dev/null
check 'counter runs' "$(goes_on)" yes
label=$(label_of "$(pid)") weight=$(cat "$(cgroup_of "$id")/cpu.weight")
check 'the default AppArmor profile' "$label" 'cri-containerd.apparmor.d (enforce)'
succeeds 'checkpoint' checkpoint "$work/a.tar"
check 'runs on after its checkpoint' "$(goes_on)" yes
check 'mount options of cgroup v2 after a checkpoint' "$(node_options)" "$options"
remove_all
succeeds 'restore' restored b "$work/a.tar"
check 'counts on' "$(goes_on)" yes
check 'scope' "$(basename "$(cgroup_of "$id")")" "cri-containerd-$id.scope"
check 'scope is a unit' "$(systemctl is-active "cri-containerd-$id.scope")" active
for line in 'memory.max 67108864' 'cpu.max 50000 100000' 'cgroup.freeze 0' "cpu.weight $weight"; do
	check "${line%% *} of the request" "$(cat "$(cgroup_of "$id")/${line%% *}")" "${line#* }"
done
check 'cgroup namespace' "$(is_apart)" own
check 'cgroup namespace of its children' "$(processes_apart)" 0
check 'cgroup in it' "$(exec_of cat /proc/1/cgroup)" 0::/
check 'cgroup of an exec' "$(exec_of cat /proc/self/cgroup)" 0::/
check 'limit in the files of its cgroup' "$(exec_of cat /sys/fs/cgroup/memory.max)" 67108864
check 'no slice of the node there' "$(exec_of sh -c 'ls -d /sys/fs/cgroup/*.slice' | grep -c 'No such file')" 1
check 'AppArmor profile' "$(label_of "$(pid)")" "$label"
check 'AppArmor profile of an exec' "$(exec_of cat /proc/self/attr/current)" "$label"
check 'the profile binds' "$(exec_of sh -c 'echo 1 >/proc/sysrq-trigger' | grep -c -i -E 'denied|read-only')" 1
check 'statistics' "$(crictl stats -o json --id "$id" | jq '.stats[0].memory.workingSetBytes.value | tonumber > 0')" true
crictl update --memory 100003840 "$id" >/dev/null
check 'update of the limit' "$(cat "$(cgroup_of "$id")/memory.max")" 100003840
systemctl daemon-reload
check 'the update outlives a reload of systemd' "$(cat "$(cgroup_of "$id")/memory.max")" 100003840
check 'device rules' "$(exec_of sh -c 'mknod /dev/x b 254 0; cat /dev/x; rm /dev/x' | grep -c 'not permitted')" 1

# Another generation.
succeeds 'checkpoint of the restored one' checkpoint "$work/b.tar"
check 'the restored one runs on' "$(goes_on)" yes
crictl stop "$id" >/dev/null && crictl rm "$id" >/dev/null
check 'its scope goes' "$(scopes "$id*")" 0
remove_all
succeeds 'second generation' restored d "$work/b.tar"
check 'second generation counts on' "$(goes_on)" yes
check 'cgroup of the second generation' "$(exec_of cat /proc/1/cgroup)" 0::/
remove_all

# A container that may write its cgroup owns that one and no other.
handler=writable
pod e && run c $busybox "$counter" >/dev/null && checkpoint "$work/e.tar"
remove_all
succeeds 'restore with cgroup_writable' restored f "$work/e.tar"
check 'it makes a cgroup of its own' "$(exec_of sh -c 'mkdir /sys/fs/cgroup/mine && rmdir /sys/fs/cgroup/mine && echo made')" made
check 'it makes none in the node' "$(exec_of mkdir /sys/fs/cgroup/system.slice/x | grep -c 'No such file')" 1
check 'it lifts no limit' "$(exec_of sh -c 'echo max >/sys/fs/cgroup/memory.max' >/dev/null; cat "$(cgroup_of "$id")/memory.max")" 67108864
handler=''
remove_all

# What has a file open below /sys/fs/cgroup: every program of Go 1.25.
pod g && run c $busybox "$workload"' | .command = ["/wl/workload"] | .args = ["heap", "2"]' >/dev/null
wait_until 60 more_than 1
check 'a Go program holds cpu.max' "$(find "/proc/$(pid)/fd" -lname '*/sys/fs/cgroup/cpu.max' | wc -l)" 1
checkpoint "$work/g.tar"
remove_all
succeeds 'restore of a Go program' restored h "$work/g.tar" "$workload"
check 'the Go program goes on' "$(goes_on)" yes
check 'it holds cpu.max again' "$(find "/proc/$(pid)/fd" -lname '*/sys/fs/cgroup/cpu.max' | wc -l)" 1
remove_all

# Another user, no rights, a read-only root.
restricted=$(security '{run_as_user: {value: 1000}, run_as_group: {value: 1000}, no_new_privs: true, capabilities: {drop_capabilities: ["ALL"]}, seccomp: {profile_type: 0}, readonly_rootfs: true}')
pod i && run c $busybox "$restricted"' | .command = ["/bin/sh", "-c"] | .args = ["while :; do echo x; sleep 0.3; done"]' >/dev/null
wait_until 60 more_than 1
succeeds 'checkpoint of a restricted container' checkpoint "$work/i.tar"
remove_all
succeeds 'restore of it' restored j "$work/i.tar" "$restricted"
check 'its root is read-only' "$(awk '$5 == "/" { print substr($6, 1, 2) }' "/proc/$(pid)/mountinfo")" ro
check 'its credentials' "$(grep -E '^(Uid|CapBnd|NoNewPrivs|Seccomp):' "/proc/$(pid)/status" | tr -s '\t\n' ' ')" \
	'Uid: 1000 1000 1000 1000 CapBnd: 0000000000000000 NoNewPrivs: 1 Seccomp: 2 '
check 'it goes on' "$(goes_on)" yes
remove_all

# Whatever profile the checkpoint had, a container has its pod's, as its execs have.
apparmor_parser -r <<'PROFILE'
profile mine flags=(attach_disconnected, mediate_deleted) { file, network, capability, mount, umount, signal, ptrace, unix, }
PROFILE
unconfined=$(apparmor '{profile_type: 1}') mine=$(apparmor '{profile_type: 2, localhost_ref: "mine"}')
for kind in unconfined mine; do
	pod "from-$kind" && run c $busybox "$counter | ${!kind}" >/dev/null
	wait_until 60 more_than 1
	succeeds "checkpoint with profile $kind" checkpoint "$work/$kind.tar"
	remove_all
done
cp "$work/a.tar" "$work/default.tar"
for way in default-unconfined default-mine unconfined-default mine-default unconfined-unconfined; do
	from=${way%-*} to=${way#*-}
	case $to in
	default) labels='cri-containerd.apparmor.d (enforce)' change=. ;;
	mine) labels='mine (enforce)' change=$mine ;;
	unconfined) labels=unconfined change=$unconfined ;;
	esac
	succeeds "$from to $to" restored "to-$way" "$work/$from.tar" "$change"
	check "label of $from to $to" "$(label_of "$(pid)")" "$labels"
	check "label of an exec in $from to $to" "$(exec_of cat /proc/self/attr/current)" "$labels"
	check "$from to $to goes on" "$(goes_on)" yes
	remove_all
done
apparmor_parser -R <<<'profile mine { }'
refused 'profile that is not loaded' 'mine' restored p0 "$work/default.tar" "$mine"
remove_all

# A privileged pod is in the node's namespace, as its spec says, and nobody else gets there.
privileged='.linux.security_context.privileged = true'
pod k "$privileged" && run c $busybox "$counter | $privileged" >/dev/null
checkpoint "$work/k.tar"
remove_all
succeeds 'restore of a privileged pod' restored l "$work/k.tar" "$privileged" "$privileged"
check 'its cgroup namespace' "$(is_apart)" "the node's"
remove_all
refused 'privileged checkpoint in an ordinary pod' 'namespace was' restored m "$work/k.tar"
remove_all
refused 'ordinary checkpoint in a privileged pod' 'namespace was' restored n "$work/a.tar" "$privileged" "$privileged"
remove_all

# OOM.
oom='.command = ["/bin/sh", "-c"] | .args = ["while [ ! -e /tmp/go ]; do sleep 0.3; done; x=$(head -c 200000000 /dev/zero | tr \"\\\\0\" x); echo ${#x}"]'
limit='.linux.resources = {memory_limit_in_bytes: 33554432}'
pod o && run c $busybox "$oom | $limit" >/dev/null && checkpoint "$work/o.tar"
remove_all
restored p "$work/o.tar" "$limit" >/dev/null
crictl exec "$id" touch /tmp/go
# shellcheck disable=SC2317 # called by wait_until
exited() { [ "$(crictl inspect "$id" | jq -r .status.state)" = CONTAINER_EXITED ]; }
wait_until 120 exited
check 'OOM kill' "$(crictl inspect "$id" | jq -r .status.reason)" OOMKilled
remove_all

# Lazily, over a restart of containerd's unit.
big="$workload"' | .linux.resources = {memory_limit_in_bytes: 402653184}'
# shellcheck disable=SC2317 # called by wait_until
serving() { pgrep -f 'restore-pages -container'; }
# shellcheck disable=SC2317 # likewise
drained() { ! serving; }
pod q && run c $busybox "$big"' | .command = ["/wl/workload"] | .args = ["heap", "128"]' >/dev/null
wait_until 120 more_than 1
crictl rmi $registry/ck/big:1 >/dev/null 2>&1
succeeds 'checkpoint to an image' checkpoint oci-image:$registry/ck/big:1
remove_all
succeeds 'lazy restore of a Go program' restored r $registry/ck/big:1 "$big"
check 'cgroup namespace of the lazy one' "$(is_apart)" own
systemctl restart containerd
check 'all memory comes, over a restart of containerd' "$(wait_until 120 drained && echo yes)" yes
check 'the lazy one goes on' "$(goes_on)" yes
remove_all
crictl rmi $registry/ck/big:1 >/dev/null 2>&1

check 'nothing stays mounted' "$(grep -c io.containerd.cri.v1.restore /proc/mounts)" 0
check 'no scope stays' "$(scopes)" 0
check 'mount options of cgroup v2 at the end' "$(node_options)" "$options"
exit $((failures > 0))
