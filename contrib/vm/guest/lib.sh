# shellcheck shell=bash disable=SC2034
# Sourced in the guest: pods and containers by crictl, with the names that a kubelet gives cgroups for systemd, and
# checks that read as the output of go test.
export PATH=/opt/cri-restore/bin:/root/cri-restore/bin:$PATH
export CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1

registry=127.0.0.1:5000
busybox=$registry/busybox:1
work=/root/work
mkdir -p "$work"
failures=0

# check NAME GOT WANT
check() {
	local name=Smoke/${1// /_}
	printf '=== RUN   %s\n' "$name"
	if [ "$2" = "$3" ]; then
		printf -- '--- PASS: %s (0.00s)\n' "$name"
	else
		printf '    got  %q\n    want %q\n' "$2" "$3"
		printf -- '--- FAIL: %s (0.00s)\n' "$name"
		failures=$((failures + 1))
	fi
}

# succeeds NAME COMMAND...: that it does; of a failure the last line is shown.
succeeds() {
	local name=$1
	shift
	if "$@" >"$work/out" 2>"$work/err"; then check "$name" 0 0; else check "$name" "$(tail -n 1 "$work/err" | cut -c1-600)" 'no error'; fi
}

# refused NAME WORD COMMAND...: that it fails with this word.
refused() {
	local name=$1 word=$2
	shift 2
	if "$@" >"$work/out" 2>"$work/err"; then
		check "$name" 'no error' "$word"
	else
		check "$name" "$(grep -oF -m1 -- "$word" "$work/err" | head -n 1)" "$word"
	fi
}

# wait_until SECONDS COMMAND...: that it succeeds. The kernel and containerd say nothing when they are done.
wait_until() {
	local deadline=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		((SECONDS < deadline)) || return 1
		sleep 0.2
	done
}

# pod NAME [JQ]: runs a pod in a slice of its own and sets pod to its ID.
pod() {
	mkdir -p "$work/log/$1"
	jq -n --arg name "$1" --arg log "$work/log/$1" '{
		metadata: {name: $name, namespace: "demo", uid: ("uid-" + $name), attempt: 0}, hostname: $name, log_directory: $log,
		linux: {cgroup_parent: ("/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod" + $name + ".slice"),
			security_context: {namespace_options: {pid: 1}}}}' | jq "${2:-.}" >"$work/pod.json"
	# shellcheck disable=SC2086 # a handler is two words or none
	pod=$(crictl runp ${handler:+--runtime $handler} "$work/pod.json")
	pod_name=$1
}

# create NAME IMAGE [JQ]: creates a container in that pod and sets id.
create() {
	jq -n --arg name "$1" --arg image "$2" '{
		metadata: {name: $name, attempt: 0}, image: {image: $image, user_specified_image: $image}, log_path: ($name + ".log"),
		linux: {resources: {memory_limit_in_bytes: 67108864, cpu_shares: 512, cpu_quota: 50000, cpu_period: 100000},
			security_context: {namespace_options: {pid: 1}}}}' | jq "${3:-.}" >"$work/container.json"
	log=$work/log/$pod_name/$1.log
	id=$(crictl create "$pod" "$work/container.json" "$work/pod.json")
}

# run NAME IMAGE [JQ]: creates and starts.
run() { create "$@" && crictl start "$id"; }

# restored POD FILE [JQ] [POD-JQ]: a pod with one container from a checkpoint.
restored() {
	pod "$1" "${4:-.}" && run c "$2" "${3:-.}"
}

pid() { crictl inspect "${1:-$id}" | jq .info.pid; }
cgroup_of() { echo "/sys/fs/cgroup$(cut -d: -f3 "/proc/$(pid "$1")/cgroup")"; }
namespace_of() { readlink "/proc/$1/ns/cgroup"; }
label_of() { tr -d '\0\n' <"/proc/$1/attr/current"; }
lines() { grep -c '' "$log" 2>/dev/null || true; }

# goes_on: the container writes more lines.
goes_on() {
	local before
	before=$(lines)
	wait_until 60 more_than "${before:-0}" && echo yes || echo no
}
more_than() { [ "$(lines)" -gt "$1" ]; }

# checkpoint FILE: of the container, of which nothing is left afterwards.
checkpoint() { crictl checkpoint --export="$1" "$id"; }
remove_all() { crictl rmp -f -a >/dev/null 2>&1 || true; }

# shellcheck disable=SC2016 # the container's shell is meant
counter='.command = ["/bin/sh", "-c"] | .args = ["trap \"exit 7\" TERM; echo x >/changed; i=0; while :; do i=$((i+1)); echo count $i; sleep 0.3; done"]'
