#!/usr/bin/env bash
# Checkpoints a container that counts, deletes it, and restores it through CRI with
# crictl: from the archive, from an OCI image out of a registry, from a checkpoint of the
# restored container, after a kill -9 of containerd, and from what must be refused.
# "make demo" runs it; by hand, as root, after "make deps build":
#
#   contrib/checkpoint-restore-cri-test.sh
#
# It starts a containerd and a registry of its own, which share nothing with others of
# the machine, and removes all of it at the end, after a failure and after ^C too. Of a failed
# run the logs stay. Copies can run beside each other.
#
# CRI_RESTORE_BIN is the folder of the binaries, by default bin/ of the repository.
# shellcheck disable=SC2016 # what is not expanded here is for jq and for the container's shell
set -eEuo pipefail
export LC_ALL=C

contrib=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export CRI_RESTORE_REPO=${contrib%/*}
# shellcheck source=contrib/env.sh
. "$contrib/env.sh"
bin=${CRI_RESTORE_BIN:-$CRI_RESTORE_REPO/bin}
PATH=$bin:$PATH

(($# == 0)) || {
	echo "usage: $0 (no arguments)" >&2
	exit 2
}
[ "$(id -u)" = 0 ] || {
	echo "FAIL: set-up: this needs root: containers, mounts and CRIU do" >&2
	exit 1
}
for tool in "$bin"/{containerd,containerd-shim-runc-v2,ctr,crictl,runc,registry,testimage,checkpoint-image} \
	criu busybox jq ip awk "$CNI_PATH/bridge" "$CNI_PATH/host-local" "$CNI_PATH/loopback"; do
	command -v "$tool" >/dev/null || {
		echo "FAIL: set-up: $tool is missing: run \"make deps build\"" >&2
		exit 1
	}
done

# The name is in every path, cgroup and mount of this run. Unix sockets allow for no
# long one.
dir=$(mktemp -d "${TMPDIR:-/tmp}/cri-demo.XXXXXX")
id=${dir##*/}
outcome=interrupted
# shellcheck source=contrib/demo/step.sh
. "$contrib/demo/step.sh"
# shellcheck source=contrib/demo/node.sh
. "$contrib/demo/node.sh"
# shellcheck source=contrib/demo/leftovers.sh
. "$contrib/demo/leftovers.sh"
# shellcheck source=contrib/demo/image.sh
. "$contrib/demo/image.sh"
# shellcheck source=contrib/demo/container.sh
. "$contrib/demo/container.sh"
# shellcheck source=contrib/demo/counter.sh
. "$contrib/demo/counter.sh"

finish() {
	trap - ERR
	trap '' HUP INT PIPE TERM
	set +e
	case $outcome in
	passed) return ;;
	failed)
		tear_down
		remove_folder log
		;;
	*)
		if $step_open; then echo interrupted; fi
		echo 'cleaning up' >&2
		tear_down
		remove_folder
		;;
	esac
}
trap finish EXIT
trap 'unexpected $? "${BASH_SOURCE[0]##*/}" $LINENO "$BASH_COMMAND"' ERR
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exec >/dev/null; exit 141' PIPE
trap 'exit 143' TERM

mkdir "$dir"/{log,tmp,json}
export TMPDIR=$dir/tmp
((${#dir} <= 32)) || fail "$dir is too long for the names of Unix sockets: set TMPDIR to a shorter folder"

chapter 'Set-up'

begin 'build a busybox image, and one for the sandboxes'
call "$bin/testimage" "$dir/busybox"
base_digest=$out
# The file gives it a layer of its own: the base image's would otherwise never be gone.
call "$bin/testimage" --cmd sleep --cmd 2147483647 --file /etc/sandbox=waits "$dir/sandbox"
ok

begin 'serve both from a registry of our own'
start_registry --load "$dir/sandbox=sandbox:1" --load "$dir/busybox=busybox:1"
base=$registry/busybox:1 pause=$registry/sandbox:1
note "at $registry"
ok

begin 'start containerd with its own folders, socket and network'
choose_network
configure
start_containerd
remember
mv "$dir/remembered" "$dir/at-first"
call crictl pull "$pause"
ok

begin 'look for the plugin'
call ctr plugins ls
line=$(grep -E '^io\.containerd\.cri\.v1 +restore ' <<<"$out") || fail 'ctr plugins ls does not list io.containerd.cri.v1 restore: is this our containerd?'
call ctr plugins ls -d type==io.containerd.cri.v1,id==restore
[[ $line =~ \ ok\ *$ ]] || fail "it is not in use: $(sed -n 's/^ *Message: *//p' <<<"$out")"
note "$line" "CRIU $(awk '$1 == "criu_version" {print $2}' <<<"$out")"
ok
remember

chapter 'A. Checkpoint'

begin 'pull the base image by CRI'
call crictl pull "$base"
note "${base%:*}@$base_digest"
ok

begin 'start a container that counts, changes a file and deletes one'
new_pod first before
log=$dir/log/first/counter.log
jq --arg image "$base" '.image.image = $image' "$contrib/testdata/counter.json" >"$dir/json/counter.json"
call crictl create "$pod" "$dir/json/counter.json" "$pod_config"
container=$out
start
wait_count "$log" 5
call crictl exec "$container" touch /testfile
call crictl exec "$container" rm /data/delete-me
mapfile -t notes < <(tail -n 3 "$log")
ok

begin 'checkpoint it with crictl'
checkpoint "$dir/first.tar"
note "first.tar, $(stat -c %s "$dir/first.tar") bytes; the counter had reached $before"
first_before=$before
ok

begin 'remove container, pod and base image'
call crictl rm -f "$container"
remove_pod
remove_image "$base"
nothing_left
ok

chapter 'B. Restore from the archive'

begin 'create a container from first.tar, in a pod with another cgroup parent'
listen_to_registry
new_pod second after
new_container from-archive "$dir/first.tar"
create
ok

begin 'see that the base image was pulled again, by digest'
registry_heard "method=GET path=/v2/busybox/manifests/$base_digest status=200" ||
	fail "the registry was not asked for $base_digest"
! registry_heard 'path=/v2/busybox/manifests/1 ' || fail "the registry was asked for the tag: $(head -n 1 "$dir/heard")"
has_base_without_tag
call crictl images
note "$(grep -F "${base%:*}" <<<"$out")"
ok

begin 'find the old log in its place before anything runs'
tar -xOf "$dir/first.tar" container.log | cmp -s - "$log" || fail "$log is not the log in the archive"
ok

begin 'start it: the counter goes on, the log has no gap'
start
goes_on "$log" "$dir/first.tar" "$first_before"
ok

begin 'find the files as the process left them'
in_container /testfile ls /testfile
in_container changed cat /data/change-me
in_container /data/keep-me cat /data/keep-me
call crictl exec -s "$container" test ! -e /data/delete-me
call crictl exec -s "$container" cat /data/counter
((out >= count)) || fail "/data/counter is $out, and the log was at $count before"
ok

begin 'find name, labels and annotations as the request says'
is_as_requested from-archive
inspect '.status.annotations["org.criu.restore/checkpoint-image"] == $dir + "/first.tar"'
mapfile -t notes < <(jq -r '.status.annotations | to_entries[] | "\(.key): \(.value)"' <<<"$out")
ok

begin 'find its processes and its limit in the new cgroup'
in_cgroup after
ok

begin 'ask crictl stats for its memory'
call crictl stats -o json "$container"
memory=$(jq -r '.stats[0].memory.workingSetBytes.value // 0' <<<"$out")
((memory > 0)) || fail "no memory in: $(jq -c . <<<"$out")"
note "working set: $memory bytes"
ok

begin 'exec in it, by way of the stream server'
call crictl exec "$container" sh -c 'echo $WHO'
same 'WHO' "$out" restored
ok

begin 'stop it: the process handles the signal it was waiting for'
call crictl stop -t 10 "$container"
inspect '.status.state == "CONTAINER_EXITED" and .status.exitCode == 7'
grep -q ' stdout F stopped at ' "$log" || fail "the last words are not in the log: $(tail -n 1 "$log")"
note "exit code 7; $(tail -n 1 "$log")"
ok

begin 'remove it, and see that nothing is left'
call crictl rm "$container"
remove_pod
remove_image "${base%:*}@$base_digest"
nothing_left
ok

chapter 'C. Restore from an OCI image'

begin 'make an image of first.tar in an OCI layout'
call "$bin/checkpoint-image" --name demo/counter:1 --layout "$dir/checkpoint" "$dir/first.tar"
note "$out"
ok

begin 'serve it from the registry, which now wants a password'
stop_registry
start_registry --listen "$registry" --require-auth demo:secret --load "$dir/sandbox=sandbox:1" \
	--load "$dir/busybox=busybox:1" --load "$dir/checkpoint=demo/counter:1"
checkpoint_image=$registry/demo/counter:1
refused crictl pull "$checkpoint_image"
ok

begin 'pull it: its base image comes along'
listen_to_registry
call crictl pull --creds demo:secret "$checkpoint_image"
registry_heard "method=GET path=/v2/busybox/manifests/$base_digest status=200" ||
	fail "the registry was not asked for $base_digest"
has_base_without_tag
ok

begin 'restore a container from the image ID, as the kubelet does'
new_pod third after
call crictl inspecti -o json "$checkpoint_image"
image_id=$(jq -r .status.id <<<"$out")
user_image=$checkpoint_image new_container from-image "$image_id"
create
start
goes_on "$log" "$dir/first.tar" "$first_before"
is_as_requested from-image
inspect '.status.annotations["org.criu.restore/checkpoint-image"] == "'"$checkpoint_image"'"'
in_container /testfile ls /testfile
ok

begin 'checkpoint the restored container'
checkpoint "$dir/second.tar"
note "the counter had reached $before"
ok

begin 'remove it and its image'
remove_pod
remove_image "$checkpoint_image"
ok

begin 'put the second checkpoint straight into containerd as an image'
call "$bin/checkpoint-image" --name localhost/demo/counter:2 --containerd "$CONTAINERD_ADDRESS" "$dir/second.tar"
note "$out"
ok

begin 'restore from it: the second generation goes on'
new_pod fourth before
call crictl inspecti -o json localhost/demo/counter:2
image_id=$(jq -r .status.id <<<"$out")
user_image=localhost/demo/counter:2 new_container second-generation "$image_id"
create
start
goes_on "$log" "$dir/second.tar" "$before"
in_container /testfile ls /testfile
in_container changed cat /data/change-me
call crictl exec -s "$container" test ! -e /data/delete-me
remove_pod
ok

chapter 'D. containerd dies between create and start'

begin 'create a container from the image'
new_pod fifth after
user_image=localhost/demo/counter:2 new_container survivor "$image_id"
create
ok

begin 'kill -9 containerd, and start it again'
stop_containerd KILL
start_containerd
ok

begin 'start the container: the counter goes on'
start
goes_on "$log" "$dir/second.tar" "$before"
is_as_requested survivor
remove_pod
ok

chapter 'E. What must be refused'

begin 'a pod in a namespace where restores are not allowed'
new_pod sixth after elsewhere
new_container stranger "$image_id"
remember
refused crictl create "$pod" "$request" "$pod_config"
says elsewhere allowed_namespaces
first_line
nothing_left
remove_pod
ok

begin 'half an archive'
new_pod seventh after
head -c $(($(stat -c %s "$dir/first.tar") / 2)) "$dir/first.tar" >"$dir/half.tar"
new_container victim "$dir/half.tar"
remember
refused crictl create "$pod" "$request" "$pod_config"
says "$dir/half.tar"
first_line
nothing_left
ok

begin 'a volume that would hide what the process has open'
mkdir "$dir/volume"
new_container victim "$dir/first.tar" '.mounts = [{container_path: "/bin", host_path: ($dir + "/volume")}]'
refused crictl create "$pod" "$request" "$pod_config"
says /bin/busybox
first_line
nothing_left
ok

begin 'a checkpoint with a damaged image of CRIU'
mkdir "$dir/damaged"
tar -xf "$dir/first.tar" -C "$dir/damaged"
truncate -s 1 "$dir"/damaged/checkpoint/pstree.img
tar -cf "$dir/damaged.tar" -C "$dir/damaged" .
new_container victim "$dir/damaged.tar"
if container=$(crictl create "$pod" "$request" "$pod_config" 2>"$dir/stderr"); then
	refused crictl start "$container"
	says 'CRIU says:' "$dir/root/io.containerd.cri.v1.restore/failed/$container"
	first_line
	call crictl rm -f "$container"
else
	# Seen before anything runs, which is better still.
	out=$(message)
	says "$dir/damaged.tar"
	first_line
fi
nothing_left
ok

begin 'the same name with an archive in order, in the same pod: the counter goes on'
new_container victim "$dir/first.tar"
create
start
goes_on "$log" "$dir/first.tar" "$first_before"
ok

chapter 'F. Clean-up'

begin 'remove pods and images: containerd is as empty as it was'
call crictl rmp -fa
remove_image localhost/demo/counter:2
remove_image "${base%:*}@$base_digest"
remove_image "$pause"
mv "$dir/at-first" "$dir/remembered"
nothing_left
ok

begin 'stop containerd and the registry: no mount, process, cgroup, interface or file is left'
stop_containerd
stop_registry
wait_for 10 nothing_on_host || fail "left behind: $(tr '\n' ';' <"$dir/left")"
tear_down
remove_folder
[ ! -e "$dir" ] || fail "$dir is still there"
ok

outcome=passed
printf '\n%d steps in %d s\nPASS\n' "$step" "$SECONDS"
