# shellcheck shell=bash disable=SC2034,SC2154
# Sourced by contrib/checkpoint-restore-cri-test.sh: a containerd and a registry
# that share nothing with another one of the machine. Uses dir, id, bin of its
# caller and the functions of step.sh.

containerd_pid='' registry_pid='' registry='' bridge=''

# crictl and ctr find this containerd by these. ctr would tell at every call that
# containerd will not support cgroup v1 for ever.
export CONTAINERD_SUPPRESS_DEPRECATION_WARNINGS=1
export CRI_CONFIG_FILE=$dir/crictl.yaml CONTAINERD_ADDRESS=$dir/c.sock CONTAINERD_NAMESPACE=k8s.io

# launch LOG COMMAND...: in the background, in a session of its own, so that a ^C at
# the terminal is for this script, which then cleans up in order. The variable is
# how the process, and what it starts, is found again.
launch() {
	local log=$1
	shift
	CRI_RESTORE_DEMO=$id TMPDIR=$dir/tmp setsid "$@" </dev/null >>"$dir/log/$log" 2>&1 &
	launched=$!
}

# end SIGNAL PID: and waits until it is gone. "wait" would tell of the signal.
end() {
	kill "-$1" "$2" 2>/dev/null || true
	wait "$2" 2>/dev/null || true
}

# running PID: a process that has ended and nobody has waited for is a zombie.
running() {
	local stat
	[ -n "$1" ] && read -r stat 2>/dev/null <"/proc/$1/stat" && [[ ${stat##*) } != [ZX]* ]]
}

start_registry() {
	rm -f "$dir/registry"
	launch registry.log "$bin/registry" --port-file "$dir/registry" "$@"
	registry_pid=$launched
	wait_for 20 registry_answers || fail 'the registry is not ready after 20 s'
	running "$registry_pid" || fail "the registry exited: $(tail -n 1 "$dir/log/registry.log")"
	registry=$(<"$dir/registry")
}

registry_answers() { [ -s "$dir/registry" ] || ! running "$registry_pid"; }

stop_registry() {
	[ -z "$registry_pid" ] || end TERM "$registry_pid"
	registry_pid=''
}

# choose_network takes a subnet that nobody uses. The bridge has its number in the
# name, so the kernel sees to it that no other copy of this script has the same.
choose_network() {
	local try n
	for try in {1..100}; do
		n=$(((RANDOM + try) % 256))
		[ -z "$(ip -4 route show root "10.232.$n.0/24")" ] || continue
		if ip link add "cri-demo$n" type bridge 2>"$dir/stderr"; then
			bridge=cri-demo$n subnet=10.232.$n.0/24
			return
		fi
	done
	fail "no bridge could be made: $(message)"
}

configure() {
	mkdir -p "$dir/cni" "$dir/hosts.d"
	jq -n --arg name "$id" --arg bridge "$bridge" --arg subnet "$subnet" --arg data "$dir/ipam" '{
		cniVersion: "1.0.0", name: $name, plugins: [{
			type: "bridge", bridge: $bridge, isGateway: true, ipMasq: false,
			ipam: {type: "host-local", dataDir: $data, ranges: [[{subnet: $subnet}]], routes: [{dst: "0.0.0.0/0"}]}
		}]}' >"$dir/cni/10-demo.conflist"

	printf 'runtime-endpoint: unix://%s\nimage-endpoint: unix://%s\ntimeout: 60\n' \
		"$dir/c.sock" "$dir/c.sock" >"$dir/crictl.yaml"

	# Everything that containerd would share with another one is moved below $dir.
	#
	# restrict_oom_score_adj: without CAP_SYS_RESOURCE, as in some virtual machines and
	# containers, no process can have a lower score than containerd. Where the capability is
	# there, it changes nothing that this script looks at.
	cat >"$dir/config.toml" <<-EOF
		version = 3
		root = "$dir/root"
		state = "$dir/state"
		temp = "$dir/tmp"
		imports = []
		[grpc]
		  address = "$dir/c.sock"
		[plugins.'io.containerd.cri.v1.restore']
		  allow_archives = true
		  allowed_namespaces = ["demo"]
		[plugins.'io.containerd.cri.v1.images'.pinned_images]
		  sandbox = "$pause"
		[plugins.'io.containerd.cri.v1.images'.registry]
		  config_path = "$dir/hosts.d"
		[plugins.'io.containerd.cri.v1.runtime']
		  restrict_oom_score_adj = true
		  netns_mounts_under_state_dir = true
		  cdi_spec_dirs = ["$dir/cdi"]
		[plugins.'io.containerd.cri.v1.runtime'.cni]
		  bin_dirs = ["$CNI_PATH"]
		  conf_dir = "$dir/cni"
		[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
		  runtime_type = "io.containerd.runc.v2"
		[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
		  BinaryName = "$bin/runc"
		  Root = "$dir/runc"
		[plugins.'io.containerd.grpc.v1.cri']
		  stream_server_address = "127.0.0.1"
		  stream_server_port = "0"
		[plugins.'io.containerd.image-verifier.v1.bindir']
		  bin_dir = "$dir/verifier"
		[plugins.'io.containerd.internal.v1.opt']
		  path = "$dir/opt"
		[plugins.'io.containerd.nri.v1.nri']
		  socket_path = "$dir/nri.sock"
		  plugin_path = "$dir/nri"
		  plugin_config_path = "$dir/nri.d"
		[plugins.'io.containerd.shim.v1.manager']
		  socket_dir = "$dir/s"
	EOF
}

start_containerd() {
	launch containerd.log "$bin/containerd" --config "$dir/config.toml"
	containerd_pid=$launched
	wait_for 30 containerd_answers || fail "containerd is not ready after 30 s"
	running "$containerd_pid" || fail "containerd exited: $(tail -n 1 "$dir/log/containerd.log")"
}

# containerd_answers is true when its runtime and its network are ready, or it has
# exited.
containerd_answers() {
	running "$containerd_pid" || return 0
	crictl --timeout 5s info 2>/dev/null | jq -e '[.status.conditions[]
		| select(.type == "RuntimeReady" or .type == "NetworkReady").status] | length == 2 and all' >/dev/null
}

stop_containerd() {
	[ -z "$containerd_pid" ] || end "${1:-TERM}" "$containerd_pid"
	containerd_pid=''
}
