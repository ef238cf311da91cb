# shellcheck shell=bash disable=SC2016,SC2034,SC2154
# Sourced by contrib/checkpoint-restore-cri-test.sh: pods and containers. Uses dir, id, contrib
# of its caller and the functions of step.sh.

# new_pod NAME CGROUP [NAMESPACE] runs a pod below a cgroup of this script, and sets pod.
new_pod() {
	pod_name=$1 pod_config=$dir/json/pod-$1.json
	mkdir -p "$dir/log/$1"
	jq --arg name "$1" --arg uid "$1-of-$id" --arg cgroup "/$id/$2" --arg namespace "${3:-demo}" --arg log "$dir/log/$1" \
		'.metadata.name = $name | .metadata.uid = $uid | .metadata.namespace = $namespace
		| .linux.cgroup_parent = $cgroup | .log_directory = $log' "$contrib/testdata/pod.json" >"$pod_config"
	call crictl runp "$pod_config"
	pod=$out
}

# new_container NAME IMAGE [FILTER] writes the request for a container that is restored
# in the present pod: its file is $request, its log will be $log.
new_container() {
	request=$dir/json/$1.json log=$dir/log/$pod_name/$1.log
	jq --arg name "$1" --arg image "$2" --arg word "${user_image:-$2}" \
		'.metadata.name = $name | .log_path = $name + ".log" | .image.image = $image
		| .image.user_specified_image = $word' "$contrib/testdata/restored.json" |
		jq --arg dir "$dir" "${3:-.}" >"$request"
}

create() {
	call crictl create "$pod" "$request" "$pod_config"
	container=$out
}

start() { call crictl start "$container"; }

# state says in short how the present container is.
state() {
	if crictl inspect -o json "$container" >"$dir/inspect" 2>"$dir/stderr"; then
		jq -r '.status | "\(.state) \(.reason) \(.message)"' "$dir/inspect"
	else
		message
	fi
}

# checkpoint FILE: of the present container. Sets before to what it has counted to.
checkpoint() {
	before=$(last_number "$log")
	call crictl checkpoint --export="$1" "$container"
	[ -s "$1" ] || fail "crictl checkpoint wrote no $1"
}

# in_container TEXT COMMAND...: exec prints the text.
in_container() {
	local want=$1
	shift
	call crictl exec -s "$container" "$@"
	same "the output of \"$*\"" "$out" "$want"
}

# inspect FILTER: of jq, must be true of crictl inspect.
inspect() {
	call crictl inspect -o json "$container"
	jq -e --arg dir "$dir" --arg base "${base%:*}@$base_digest" "$1" >/dev/null <<<"$out" ||
		fail "crictl inspect: not true: $1: $(jq -c '.status | {metadata, labels, annotations, image, imageRef, state, exitCode}' <<<"$out")"
}

# is_as_requested NAME: CRI shows what testdata/restored.json asks for, nothing that was the
# checkpointed container's, and what was restored.
is_as_requested() {
	inspect '.status | .state == "CONTAINER_RUNNING" and .metadata == {name: "'"$1"'", attempt: 3}
		and .labels == {is: "new"} and .annotations["example.org/of"] == "the request"
		and .annotations["org.criu.restore/base-image"] == $base
		and .annotations["org.criu.restore/producer"] == "containerd"
		and (.annotations | has("org.criu.restore/checkpointed-at"))'
	inspect '.status.annotations | keys | map(select(startswith("org.criu.restore/") | not)) == ["example.org/of"]'
}

# in_cgroup PARENT: each process of the container, its limit too.
in_cgroup() {
	local main pid pids limit=''
	call crictl inspect -o json "$container"
	main=$(jq -r .info.pid <<<"$out")
	mapfile -t pids < <(echo "$main" && tr ' ' '\n' <"/proc/$main/task/$main/children" | sed '/^$/d')
	for pid in "${pids[@]}"; do
		# A child may have ended since, the main process not.
		cp "/proc/$pid/cgroup" "$dir/cgroup" 2>/dev/null || { [ "$pid" != "$main" ] && continue; }
		grep -q ":/$id/$1/$container\$" "$dir/cgroup" || fail "process $pid is not in cgroup /$id/$1/$container: $(tr '\n' ' ' <"$dir/cgroup")"
		if grep ":/$id/" "$dir/cgroup" | grep -v ":/$id/$1/$container\$" >"$dir/left"; then
			fail "process $pid is in another cgroup: $(tr '\n' ' ' <"$dir/left")"
		fi
	done
	limit=$(find /sys/fs/cgroup \( -path "*/$id/$1/$container/memory.limit_in_bytes" -o -path "*/$id/$1/$container/memory.max" \) -exec cat {} +)
	same 'the memory limit' "$limit" 50331648
	note "${#pids[@]} processes in /$id/$1/${container:0:12}..., limit $limit bytes"
}

remove_pod() { call crictl rmp -f "$pod"; }
remove_image() { call crictl rmi "$1"; }
