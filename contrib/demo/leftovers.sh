# shellcheck shell=bash disable=SC2154
# Sourced by contrib/checkpoint-restore-cri-test.sh: what there is of the node, in
# containerd and on the machine, and how all of it goes. Uses dir, id, bridge and
# the variables of node.sh.

# processes lists what this script has started, and what that has started, by PID:
# what has the node's mark in its environment, and what runs in its cgroups.
processes() {
	local proc pid words cgroup comm
	for proc in /proc/[0-9]*; do
		pid=${proc#/proc/}
		running "$pid" || continue
		words=() cgroup='' comm=''
		mapfile -d '' words 2>/dev/null <"$proc/environ" || true
		if [[ " ${words[*]} " != *" CRI_RESTORE_DEMO=$id "* ]]; then
			IFS= read -r -d '' cgroup 2>/dev/null <"$proc/cgroup" || true
			[[ $cgroup == *":/$id/"* ]] || continue
		fi
		[[ $pid != "$containerd_pid" && $pid != "$registry_pid" ]] || continue
		read -r comm 2>/dev/null <"$proc/comm" || true
		echo "process $pid $comm"
	done
}

# mounts lists mount points below the node's folder and mounts made from it.
mounts() { awk -v id="$id" 'index($0, "/" id "/") {print "mount", $5}' /proc/self/mountinfo; }

# cgroups lists those of pods and containers in every hierarchy of v1 and v2. Their
# parents, which containerd was told to use, are this script's.
cgroups() { find /sys/fs/cgroup -type d -path "*/$id/*/*" -printf 'cgroup %p\n' 2>/dev/null || true; }

links() { ip -o link show master "$bridge" 2>/dev/null | awk -F': ' '{print "interface", $2}'; }

# files lists where containerd, CRI, the shims, runc, CNI and the plugin keep one entry
# per object. The logs of failed restores are meant to stay.
files() {
	local base
	find "$dir"/{tmp,s,runc/k8s.io,root/tmpmounts} "$dir/ipam/$id" \
		"$dir"/{root,state}/io.containerd.runtime.v2.task/k8s.io \
		"$dir"/{root,state}/io.containerd.grpc.v1.cri/{containers,sandboxes,netns} \
		"$dir"/root/io.containerd.snapshotter.v1.overlayfs/snapshots \
		-mindepth 1 -maxdepth 1 ! -name 'last_reserved_ip.*' ! -name lock -printf 'file %p\n' 2>/dev/null || true
	for base in "$dir"/{root,state}/io.containerd.cri.v1.restore; do
		find "$base" -mindepth 1 -path "$base/failed" -prune -o -printf 'file %p\n' 2>/dev/null || true
	done
	find /var/lib/cni/results -name "$id-*" -printf 'file %p\n' 2>/dev/null || true
}

# inventory lists everything, after a garbage collection that it waits for.
inventory() {
	ctr leases create --id demo-gc >/dev/null && ctr leases delete --sync demo-gc >/dev/null || return
	{
		ctr leases ls -q | sed 's/^/lease /'
		ctr images ls -q | sed 's/^/image /'
		ctr containers ls -q | sed 's/^/container /'
		ctr tasks ls -q | sed 's/^/task /'
		ctr content ls -q | sed 's/^/content /'
		ctr content active | awk 'NR > 1 {print "ingest", $1}'
		ctr snapshots ls | awk 'NR > 1 {print "snapshot", $1}'
		crictl pods -q | sed 's/^/pod /'
		crictl ps -aq | sed 's/^/CRI container /'
		on_host
	} | sort
}

on_host() {
	processes
	mounts
	cgroups
	links
	files
}

# remember makes the present state the one that nothing_left compares with.
remember() { inventory >"$dir/remembered"; }

# nothing_left fails the step if there is more than remembered. What containerd does
# in the background gets a moment to end.
nothing_left() {
	wait_for 10 no_more_than_remembered || fail "left behind: $(tr '\n' ';' <"$dir/left")"
}

no_more_than_remembered() {
	inventory >"$dir/now" && comm -13 "$dir/remembered" "$dir/now" >"$dir/left" && [ ! -s "$dir/left" ]
}

nothing_on_host() { on_host >"$dir/left" && [ ! -s "$dir/left" ]; }

# tear_down ends and removes the node, whatever state it is in.
tear_down() {
	local pid point
	if running "$containerd_pid"; then timeout 30 crictl rmp -fa >/dev/null 2>&1; fi
	stop_containerd
	stop_registry
	kill_processes
	mounts | cut -d' ' -f2 | sort -r | while read -r point; do umount -l "$point" 2>/dev/null; done
	find /sys/fs/cgroup -depth -type d \( -path "*/$id" -o -path "*/$id/*" \) -exec rmdir {} + 2>/dev/null
	[ -z "$bridge" ] || ip link delete "$bridge" 2>/dev/null
	forget_networks
}

# forget_networks removes what CNI remembers of pods that were not removed in order.
# Their loopback interface's is named by the pod only.
forget_networks() {
	local file pod
	for file in /var/lib/cni/results/"$id"-*; do
		[ -e "$file" ] || continue
		pod=${file##*/"$id"-}
		rm -f "$file" "/var/lib/cni/results/cni-loopback-${pod%-eth0}-lo"
	done
}

# kill_processes kills until there are none. Those of a checkpoint that was
# interrupted are frozen, and with cgroup v1 do not die before they are thawed.
kill_processes() {
	local file pid deadline=$((SECONDS + 10))
	while ((SECONDS < deadline)); do
		mapfile -t pids < <(processes)
		((${#pids[@]} > 0)) || return 0
		for pid in "${pids[@]}"; do
			pid=${pid#process }
			kill -KILL "${pid%% *}" 2>/dev/null
		done
		while read -r file; do
			case $file in
			*/freezer.state) echo THAWED >"$file" ;;
			*/cgroup.freeze) echo 0 >"$file" ;;
			esac
		done < <(find /sys/fs/cgroup -path "*/$id/*" \( -name freezer.state -o -name cgroup.freeze \) 2>/dev/null) 2>/dev/null
		sleep 0.1
	done
}

# remove_folder removes the node's folder, or all of it but the logs. Not while
# anything is mounted below it: the removal would go on into the mount.
remove_folder() {
	local keep=${1:-}
	if [ -n "$(mounts)" ]; then
		echo "$dir stays, this is still mounted:" >&2
		mounts >&2
		return 1
	fi
	if [ -n "$keep" ]; then
		find "$dir" -mindepth 1 -maxdepth 1 ! -name "$keep" -exec rm -rf --one-file-system {} +
	else
		rm -rf --one-file-system "$dir"
	fi
}
